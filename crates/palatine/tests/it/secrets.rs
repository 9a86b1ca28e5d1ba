//! A holder's secret is in its guest, and nowhere else.

use std::fs;
use std::process::Command;

use fixtures::{SMALL, SpawnedAgent, Stack, stdout_of};
use reqwest::Method;
use serde_json::json;

const CANARY: &str = "canary-3f9c1b7e5d2a4860";

#[tokio::test]
async fn a_holders_secret_is_in_no_answer_log_list_command_line_or_file() {
    let trace = "[log]\nfilter = \"trace\"\n";
    let mut stack = Stack::start(trace).await;
    let holder = stack.holder(SMALL);
    let body = json!({"agent_type": "echo", "env": {"OPENAI_API_KEY": CANARY, "CANARY": CANARY}});
    let answer = stack.ask(&holder, Method::POST, "/spawn", body).await.expect(200);
    let agent = SpawnedAgent::of(&answer);
    let (id, token) = (agent.id.as_str(), agent.text("token"));

    // The agent has it, or the rest of this test would prove nothing.
    let inside = stack.exec_echo(&holder, id, &["tell", "env", "CANARY"]).output().unwrap();
    assert_eq!(stdout_of(&inside).trim(), CANARY);

    // A crash while it runs: what is kept for the restart is sealed, and no core is written.
    stack.kill_node();
    stack.start_node().await;
    search(&stack, &[CANARY, token]);
    for path in [format!("/status/{id}"), "/agents".to_owned(), format!("/agents/{id}/logs")] {
        let said = stack.read(&holder, &path).await.to_string();
        assert!(!said.contains(CANARY) && !said.contains(token), "{path}");
    }
    assert!(!stack.get("/metrics").await.expect(200).to_string().contains(CANARY));
    let listed = serde_json::to_string(&stack.node_client().list().await.unwrap()).unwrap();
    assert!(!listed.contains(CANARY));
    stack.stop(&holder, id).await.expect(200);
    search(&stack, &[CANARY]);
    stack.end();
}

/// Looks for the words in every file of the stack, its guests' disks included,
/// and in every command line of the machine.
fn search(stack: &Stack, words: &[&str]) {
    for word in words {
        let found = Command::new("grep").args(["-rlaF", "--", word]).arg(stack.dir.path()).output().unwrap();
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
