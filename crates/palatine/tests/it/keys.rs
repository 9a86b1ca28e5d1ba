//! API keys, from the command line that makes one to the agent that one opens.

use fixtures::{PLAIN, SMALL, Stack, stderr_of, stdout_of};
use serde_json::{Value, json};

#[tokio::test]
async fn a_key_does_the_main_job_without_a_wallet_and_nothing_once_it_is_revoked() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let signed = |words: &[&str]| stdout_of(&stack.cli(&holder, words).output().unwrap());
    let made = signed(&["key", "create", "--scope", "run", "--expires", "1h", "--name", "ci", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let (key, id) = (made["key"].as_str().unwrap().to_owned(), made["info"]["id"].as_str().unwrap().to_owned());
    // Another machine: no wallet, no token that was kept, nothing but the key.
    let elsewhere = |words: &[&str], state: &str| {
        let mut command = stack.cli(&holder, words);
        command.env("PALATINE_KEY", &key).env("PALATINE_STATE", stack.path(state)).env("PALATINE_KEYPAIR", "/nowhere");
        command.output().unwrap()
    };
    let spawned: Value =
        serde_json::from_str(&stdout_of(&elsewhere(&["spawn", "--type", "echo", "--json"], "one"))).unwrap();
    let agent = spawned["agent"]["id"].as_str().unwrap();
    assert_eq!(spawned["agent"]["wallet"], json!(holder.wallet().to_string()));
    assert!(stdout_of(&elsewhere(&["ls"], "one")).contains(agent));
    let asked = elsewhere(&["ask", agent, "are you there?"], "two");
    assert!(stdout_of(&asked).contains("are you there?"));
    let told = elsewhere(&["exec", agent, "--", "/usr/bin/agent-echo", "tell", "cores"], "two");
    assert_eq!(stdout_of(&told).trim(), "1");
    let usage: Value = serde_json::from_str(&stdout_of(&elsewhere(&["usage", "--json"], "two"))).unwrap();
    assert_eq!(usage["active_agent"]["id"], json!(agent));

    let removed = elsewhere(&["rm", agent], "two");
    assert_eq!(removed.status.code(), Some(3));
    assert!(stderr_of(&removed).contains("key_scope") && stderr_of(&removed).contains("leave out --key"));
    assert!(stdout_of(&elsewhere(&["stop", agent], "two")).contains("stopped"));

    let listed = signed(&["key", "ls"]);
    assert!(listed.contains(&id) && listed.contains("run") && !listed.contains("never"), "{listed}");
    assert!(!listed.contains(&key[20..84]), "{listed}");
    let revoked = signed(&["key", "revoke", &id]);
    assert!(revoked.contains("revoked"), "{revoked}");
    let late = elsewhere(&["ls"], "two");
    assert_eq!(late.status.code(), Some(3));
    assert!(stderr_of(&late).contains("invalid_key") && !stderr_of(&late).contains(&key[20..84]));
    stack.end();
}
