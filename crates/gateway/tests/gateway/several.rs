//! Holders whose tier lets several agents run at once.

use auth::Keypair;
use domain::{Tier, TierName, Tiers};
use reqwest::Method;
use serde_json::{Value, json};

use crate::edge::{Answer, Edge, Setup, holder};

/// A gateway of one tier: so many agents at once, on 4 cores and 4096 MiB.
async fn edge(agents: u32) -> Edge {
    let tier = Tier {
        min: 1,
        cores: 4,
        memory: 4096,
        disk: Tier::DEFAULT_DISK_MIB,
        agents,
        images: None,
        runtimes: domain::RuntimeKinds::MACHINES,
    };
    let tiers = Tiers::new(vec![(TierName::try_from("team".to_owned()).unwrap(), tier)]).unwrap();
    Setup { tiers, ..Setup::default() }.start().await
}

async fn ask(edge: &Edge, holder: &Keypair, cores: u32, memory: u32) -> Answer {
    edge.post(holder, "/spawn", &json!({"agent_type": "echo", "cores": cores, "memory": memory})).await
}

/// A spawn that is granted: the agent's id.
async fn spawn(edge: &Edge, holder: &Keypair, cores: u32, memory: u32) -> String {
    let answer = ask(edge, holder, cores, memory).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["tier_config"]["agents"], 3);
    answer.body["agent"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_holder_has_as_many_agents_as_its_tier_holds_together_and_is_told_what_is_in_use() {
    let (edge, holder) = (edge(3).await, holder());
    let first = spawn(&edge, &holder, 1, 1024).await;
    let second = spawn(&edge, &holder, 2, 1024).await;
    let whole = edge.spawn(&holder).await;
    assert_eq!((whole.status, whole.code()), (409, "tier_full"), "{whole:?}");
    let live = |id: &str, cores: u32| json!({"id": id, "cores": cores, "memory": 1024});
    assert_eq!(
        whole.body["in_use"],
        json!({
            "agents": [live(&second, 2), live(&first, 1)], "agents_allowed": 3,
            "cores": 3, "cores_allowed": 4, "memory": 2048, "memory_allowed": 4096,
        })
    );
    assert_eq!(
        whole.body["error"],
        "your tier allows 3 agents at once with 4 cores and 4096 MiB together; 2 run and use 3 cores and 2048 MiB, and \
         this one asks for 4 cores and 4096 MiB; stop one, or ask for less with cores and memory"
    );
    let third = spawn(&edge, &holder, 1, 2048).await;
    assert_eq!(ask(&edge, &holder, 1, 128).await.code(), "tier_full");
    let usage = edge.get(&holder, &format!("/usage/{}", holder.wallet())).await.body;
    let ids = |agents: &Value| -> Vec<String> {
        agents.as_array().unwrap().iter().map(|agent| agent["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&usage["active_agents"]), [third.clone(), second.clone(), first.clone()]);
    assert_eq!(usage["active_agent"]["id"], json!(third));
    assert_eq!(ids(&edge.get(&holder, "/agents").await.body["agents"]), [third, second.clone(), first.clone()]);

    // One that runs is not started again; one that was stopped has its place again, of the same size.
    let start = |id: &str| json!({"pod": id});
    let running = edge.post(&holder, "/spawn", &start(&first)).await;
    assert_eq!((running.status, running.code(), &running.body["agent_id"]), (409, "pod_running", &json!(first)));
    assert_eq!(edge.post(&holder, &format!("/stop/{first}"), &Value::Null).await.status, 200);
    let again = edge.post(&holder, "/spawn", &start(&first)).await;
    assert_eq!((again.status, &again.body["tier_config"]["memory"]), (200, &json!(1024)), "as much as before");
    assert_eq!(edge.get(&holder, &format!("/status/{second}")).await.body["agent"]["state"], "ready");
}

#[tokio::test]
async fn fifty_spawns_at_once_give_as_many_agents_as_the_tier_allows() {
    let (edge, holder) = (edge(3).await, holder());
    let body = json!({"agent_type": "echo", "cores": 1, "memory": 512}).to_string();
    let asked = (0..50).map(|_| Answer::of(edge.signed(&holder, Method::POST, "/spawn", body.as_bytes())));
    let answers = futures_util::future::join_all(asked).await;
    let (granted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((granted.len(), refused.len()), (3, 47));
    assert!(refused.iter().all(|answer| answer.code() == "tier_full"), "{refused:?}");
    assert_eq!(edge.setup.node.running().len(), 3);
}

#[tokio::test]
async fn where_one_agent_is_allowed_the_second_hears_the_seeds_words() {
    let (edge, holder) = (edge(1).await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let busy = ask(&edge, &holder, 1, 128).await;
    let said = json!({"error": "this wallet has a live agent; stop it first", "code": "agent_exists", "agent_id": id});
    assert_eq!((busy.status, busy.body), (409, said));
    let started = edge.post(&holder, "/spawn", &json!({"pod": id})).await;
    assert_eq!((started.status, started.code()), (409, "agent_exists"));
    let usage = edge.get(&holder, &format!("/usage/{}", holder.wallet())).await.body;
    assert!(usage.get("active_agents").is_none() && usage["active_agent"]["id"] == json!(id), "{usage}");
}
