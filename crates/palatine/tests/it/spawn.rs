//! The main job, from the signed request to the stopped agent.

use domain::Tier;
use fixtures::{Answer, Holder, LARGE, PLAIN, SMALL, SpawnedAgent, Stack, stderr_of, stdout_of, until};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn case_burst_502_a_burst_for_one_agent_is_answered_and_its_neighbour_untouched() {
    let mut stack = Stack::start(PLAIN).await;
    let (first, second) = (stack.holder(SMALL), stack.holder(SMALL));
    let busy = stack.agent(&first).await;
    let neighbour = stack.agent(&second).await;
    let ask = |agent: &SpawnedAgent| {
        let asked = stack.chat(agent, "hello").send();
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
    stack.end();
}

#[tokio::test]
async fn a_holder_gets_an_agent_talks_to_it_sees_its_use_and_stops_it() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(LARGE);

    let answer = stack.spawn(&holder).await.expect(200);
    assert_eq!(answer["success"], true);
    let tier = &answer["tier_config"];
    assert_eq!([&tier["min"], &tier["cores"], &tier["memory"]], [&json!(LARGE), &json!(2), &json!(256)]);
    let agent = SpawnedAgent::of(&answer);
    assert_eq!(agent.text("wallet"), holder.wallet().to_string());
    assert_eq!((agent.text("tier"), agent.text("state"), agent.text("runtime")), ("large", "ready", "qemu-tcg"));
    assert!(agent.json["spawned_at"].is_u64() && agent.text("image").starts_with("sha256:"));

    // Ready means usable, at once.
    let said = Answer::of(stack.chat(&agent, "are you there?").send().await.unwrap()).await.expect(200);
    assert!(said["choices"][0]["message"]["content"].as_str().unwrap().contains("are you there?"), "{said}");

    let status = stack.status(&holder, &agent.id).await.expect(200);
    assert!(status["uptime_ms"].is_u64() && status["agent"]["token"].is_null());

    let uptime = stack.stop(&holder, &agent.id).await.expect(200);
    assert_eq!((&uptime["success"], &uptime["state"]), (&json!(true), &json!("stopped")));
    assert!(uptime["uptime_ms"].as_u64().unwrap() > 0);

    let usage = stack.usage(&holder).await;
    assert_eq!(usage["stats"]["spawns"], 1);
    assert_eq!(usage["stats"]["total_uptime_ms"], uptime["uptime_ms"]);
    assert!(usage["active_agent"].is_null());
    stack.end();
}

#[tokio::test]
async fn fifty_spawns_of_one_wallet_at_once_give_one_agent() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let requests = (0..50).map(|_| stack.signed(&holder, Method::POST, "/spawn", &json!({"agent_type": "echo"})));
    let answers = join_all(requests.map(async |request| Answer::of(request.send().await.unwrap()).await)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(won.len(), 1, "{lost:?}");
    let id = &won[0].body["agent"]["id"];
    for answer in lost {
        let body = answer.expect(409);
        assert_eq!((&body["code"], &body["agent_id"]), (&json!("agent_exists"), id));
    }
    assert_eq!(stack.node_client().list().await.unwrap().sandboxes.len(), 1);
    stack.end();
}

#[tokio::test]
async fn several_agents_of_one_holder_share_its_tier_and_no_more_than_that() {
    let tier = format!("[tiers.large]\nmin = {LARGE}\ncores = 3\nmemory = 600\nagents = 3\n");
    let mut stack = Stack::start(&tier).await;
    let holder = stack.holder(LARGE);
    let part = json!({"agent_type": "echo", "cores": 1, "memory": 200});
    let requests = (0..20).map(|_| stack.signed(&holder, Method::POST, "/spawn", &part));
    let answers = join_all(requests.map(async |request| Answer::of(request.send().await.unwrap()).await)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (3, 17), "{lost:?}");
    for answer in lost {
        let body = answer.expect(409);
        assert_eq!((&body["code"], &body["in_use"]["cores"]), (&json!("tier_full"), &json!(3)));
    }
    for answer in &won {
        let agent = SpawnedAgent::of(&answer.body);
        let said = Answer::of(stack.chat(&agent, "are you there?").send().await.unwrap()).await.expect(200);
        assert!(said.to_string().contains("are you there?"), "{said}");
    }
    assert_eq!(stack.node_client().list().await.unwrap().sandboxes.len(), 3);
    let refused = stack.cli(&holder, &["spawn", "--type", "echo", "--cores", "1", "--memory", "200"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    assert!(stderr_of(&refused).contains("palatine stop "), "{refused:?}");
    stack.stop(&holder, won[0].body["agent"]["id"].as_str().unwrap()).await.expect(200);
    let part = ["spawn", "--type", "echo", "--cores", "1", "--memory", "200"];
    assert!(stdout_of(&stack.cli(&holder, &part).output().unwrap()).contains("is ready"));
    stack.end();
}

#[tokio::test]
async fn a_wallet_below_the_lowest_tier_is_told_what_it_holds_and_needs() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL - 1);
    let body = stack.spawn(&holder).await.expect(403);
    assert_eq!((&body["balance"], &body["required"]), (&json!(SMALL - 1), &json!(SMALL)));
    let empty = Holder::new();
    assert_eq!(stack.spawn(&empty).await.expect(403)["balance"], 0);
    stack.end();
}

#[tokio::test]
async fn a_holder_that_sold_is_stopped_after_the_grace_time_and_can_still_stop_before() {
    let recheck = "[control]\nrecheck_period_s = 1\nbelow_readings = 2\nbelow_grace_s = 1\n";
    let mut stack = Stack::start(recheck).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    stack.solana.set_balance(holder.wallet(), 1);
    let status = until("the agent is stopped for its balance", async || {
        let status = stack.status(&holder, &id).await.expect(200);
        (status["agent"]["state"] == "stopped").then_some(status)
    })
    .await;
    assert_eq!(status["agent"]["reason"], "balance");

    // One who sold cannot spawn, but whoever runs one may always stop it.
    assert_eq!(stack.spawn(&holder).await.expect(403)["code"], "insufficient_balance");
    let other = stack.holder(SMALL);
    let id = stack.agent(&other).await.id;
    stack.solana.set_balance(other.wallet(), 0);
    assert_eq!(stack.stop(&other, &id).await.expect(200)["success"], true);
    stack.end();
}

#[tokio::test]
async fn an_agents_cores_and_memory_are_its_tiers() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(LARGE);
    let answer = stack.spawn(&holder).await.expect(200);
    let tier: Tier = serde_json::from_value(answer["tier_config"].clone()).unwrap();
    let id = SpawnedAgent::of(&answer).id;
    let inside = |command: &str| {
        let output = stack.exec_echo(&holder, &id, &["tell", command]).output().unwrap();
        stdout_of(&output).trim().parse::<u64>().unwrap()
    };
    assert_eq!(inside("cores"), u64::from(tier.cores));
    let memory = inside("memory");
    let given = u64::from(tier.memory);
    assert!(memory <= given && memory > given / 2, "{memory} of {given} MiB");
    stack.end();
}
