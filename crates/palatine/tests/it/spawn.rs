//! The main job, from the signed request to the stopped agent.

use domain::Tier;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{Answer, Holder, House, LARGE, PLAIN, SMALL, until};

#[tokio::test(flavor = "multi_thread")]
async fn case_burst_502_a_burst_for_one_agent_is_answered_and_its_neighbour_untouched() {
    let mut house = House::start(PLAIN).await;
    let (first, second) = (house.holder(SMALL), house.holder(SMALL));
    let busy = house.spawn(&first).await.expect(200)["agent"].clone();
    let neighbour = house.spawn(&second).await.expect(200)["agent"].clone();
    let ask = |agent: &Value| {
        let question = json!({"model": "default", "messages": [{"role": "user", "content": "hello"}]});
        let asked = house.agent(Method::POST, agent, "/v1/chat/completions").json(&question).send();
        async { Answer::of(asked.await.unwrap()).await }
    };
    for size in [150, 250] {
        let burst = join_all((0..size).map(|_| ask(&busy)));
        let few = join_all((0..10).map(|_| ask(&neighbour)));
        let (burst, few) = tokio::join!(burst, few);
        for answer in burst {
            let later = matches!(answer.status.as_u16(), 429 | 503) && answer.body["retry_after"].is_u64();
            assert!(answer.status == 200 || later, "{answer:?}");
        }
        assert!(few.iter().all(|answer| answer.status == 200), "{few:?}");
    }
    house.end();
}

#[tokio::test]
async fn a_holder_gets_an_agent_talks_to_it_sees_its_use_and_stops_it() {
    let mut house = House::start(PLAIN).await;
    let holder = house.holder(LARGE);

    let answer = house.spawn(&holder).await.expect(200);
    assert_eq!(answer["success"], true);
    assert_eq!(answer["tier_config"], json!({"min": LARGE, "cores": 2, "memory": 256}));
    let agent = &answer["agent"];
    assert_eq!(agent["wallet"], holder.wallet().to_string());
    assert_eq!(agent["tier"], "large");
    assert_eq!(agent["state"], "ready");
    assert_eq!(agent["runtime"], "qemu-tcg");
    assert!(agent["spawned_at"].is_u64() && agent["image"].as_str().unwrap().starts_with("sha256:"));

    // Ready means usable, at once.
    let question = json!({"model": "default", "messages": [{"role": "user", "content": "are you there?"}]});
    let chat = house.agent(Method::POST, agent, "/v1/chat/completions").json(&question).send().await.unwrap();
    let said = Answer::of(chat).await.expect(200);
    assert!(said["choices"][0]["message"]["content"].as_str().unwrap().contains("are you there?"), "{said}");

    let id = agent["id"].as_str().unwrap();
    let status = house.status(&holder, id).await.expect(200);
    assert!(status["uptime_ms"].is_u64() && status["agent"]["token"].is_null());

    let uptime = house.stop(&holder, id).await.expect(200);
    assert_eq!((&uptime["success"], &uptime["state"]), (&json!(true), &json!("stopped")));
    assert!(uptime["uptime_ms"].as_u64().unwrap() > 0);

    let usage = house.ask(&holder, Method::GET, &format!("/usage/{}", holder.wallet()), Value::Null).await.expect(200);
    assert_eq!(usage["stats"]["spawns"], 1);
    assert_eq!(usage["stats"]["total_uptime_ms"], uptime["uptime_ms"]);
    assert!(usage["active_agent"].is_null());
    house.end();
}

#[tokio::test]
async fn fifty_spawns_of_one_wallet_at_once_give_one_agent() {
    let mut house = House::start(PLAIN).await;
    let holder = house.holder(SMALL);
    let requests = (0..50).map(|_| house.signed(&holder, Method::POST, "/spawn", &json!({"agent_type": "echo"})));
    let answers = join_all(requests.map(async |request| Answer::of(request.send().await.unwrap()).await)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(won.len(), 1, "{lost:?}");
    let id = &won[0].body["agent"]["id"];
    for answer in lost {
        let body = answer.expect(409);
        assert_eq!((&body["code"], &body["agent_id"]), (&json!("agent_exists"), id));
    }
    assert_eq!(house.node_client().list().await.unwrap().sandboxes.len(), 1);
    house.end();
}

#[tokio::test]
async fn a_wallet_below_the_lowest_tier_is_told_what_it_holds_and_needs() {
    let mut house = House::start(PLAIN).await;
    let holder = house.holder(SMALL - 1);
    let body = house.spawn(&holder).await.expect(403);
    assert_eq!((&body["balance"], &body["required"]), (&json!(SMALL - 1), &json!(SMALL)));
    let empty = Holder::new();
    assert_eq!(house.spawn(&empty).await.expect(403)["balance"], 0);
    house.end();
}

#[tokio::test]
async fn a_holder_that_sold_is_stopped_after_the_grace_time_and_can_still_stop_before() {
    let recheck = "[control]\nrecheck_period_s = 1\nbelow_readings = 2\nbelow_grace_s = 1\n";
    let mut house = House::start(recheck).await;
    let holder = house.holder(SMALL);
    let agent = house.spawn(&holder).await.expect(200)["agent"].clone();
    let id = agent["id"].as_str().unwrap().to_owned();
    house.solana.tell(&json!({"do": "set", "wallet": holder.wallet(), "amount": 1}));
    let status = until("the agent is stopped for its balance", async || {
        let status = house.status(&holder, &id).await.expect(200);
        (status["agent"]["state"] == "stopped").then_some(status)
    })
    .await;
    assert_eq!(status["agent"]["reason"], "balance");

    // One who sold cannot spawn, but whoever runs one may always stop it.
    assert_eq!(house.spawn(&holder).await.expect(403)["code"], "insufficient_balance");
    let other = house.holder(SMALL);
    let id = house.spawn(&other).await.expect(200)["agent"]["id"].as_str().unwrap().to_owned();
    house.solana.tell(&json!({"do": "set", "wallet": other.wallet(), "amount": 0}));
    assert_eq!(house.stop(&other, &id).await.expect(200)["success"], true);
    house.end();
}

#[tokio::test]
async fn an_agents_cores_and_memory_are_its_tiers() {
    let mut house = House::start(PLAIN).await;
    let holder = house.holder(LARGE);
    let answer = house.spawn(&holder).await.expect(200);
    let tier: Tier = serde_json::from_value(answer["tier_config"].clone()).unwrap();
    let id = answer["agent"]["id"].as_str().unwrap();
    let inside = |command: &str| {
        let output =
            house.palatine(&holder, &["exec", id, "--", "/usr/bin/agent-echo", "tell", command]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(inside("cores"), u64::from(tier.cores));
    let memory = inside("memory");
    let given = u64::from(tier.memory);
    assert!(memory <= given && memory > given / 2, "{memory} of {given} MiB");
    house.end();
}
