//! A holder's secret is in its guest, and nowhere else.

use std::fs;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, SMALL};

const CANARY: &str = "canary-3f9c1b7e5d2a4860";

#[tokio::test]
async fn a_holders_secret_is_in_no_answer_log_list_command_line_or_file() {
    let trace = "[log]\nfilter = \"trace\"\n";
    let mut house = House::start(trace).await;
    let holder = house.holder(SMALL);
    let body = json!({"agent_type": "echo", "env": {"OPENAI_API_KEY": CANARY, "CANARY": CANARY}});
    let answer = house.ask(&holder, Method::POST, "/spawn", body).await.expect(200);
    let token = answer["agent"]["token"].as_str().unwrap().to_owned();
    let id = answer["agent"]["id"].as_str().unwrap();

    // The agent has it, or the rest of this test would prove nothing.
    let inside =
        house.palatine(&holder, &["exec", id, "--", "/usr/bin/agent-echo", "tell", "env", "CANARY"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), CANARY, "{inside:?}");

    // A crash while it runs: what is kept for the restart is sealed, and no core is written.
    house.kill_node();
    house.start_node().await;
    search(&house, &[CANARY, &token]);
    for path in [format!("/status/{id}"), "/agents".to_owned(), format!("/agents/{id}/logs")] {
        let said = house.ask(&holder, Method::GET, &path, Value::Null).await.expect(200);
        assert!(!said.to_string().contains(CANARY), "{path}");
        assert!(!said.to_string().contains(&token), "{path}");
    }
    assert!(!house.get("/metrics").await.expect(200).to_string().contains(CANARY));
    let listed = serde_json::to_string(&house.node_client().list().await.unwrap()).unwrap();
    assert!(!listed.contains(CANARY));
    house.stop(&holder, id).await.expect(200);
    search(&house, &[CANARY]);
    house.end();
}

/// Looks for the words in every file of the house, its guests' disks included,
/// and in every command line of the machine.
fn search(house: &House, words: &[&str]) {
    for word in words {
        let found = Command::new("grep").args(["-rlaF", "--", word]).arg(house.dir.path()).output().unwrap();
        let files = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(files.is_empty(), "{word} is in:\n{files}");
        // `grep` itself has ended; what runs now has no reason to name it.
        let lines =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        for line in lines {
            assert!(!String::from_utf8_lossy(&line).contains(word), "{word} is on a command line");
        }
    }
}
