//! A holder's secret is in its guest, and nowhere else; a POD's key is nowhere in the clear.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fixtures::{LocalStack, SMALL, SpawnedAgent, Stack, stderr_of, stdout_of};
use identity::Identity;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretBox};
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
    search(stack.dir.path(), &[CANARY, token]);
    for path in [format!("/status/{id}"), "/agents".to_owned(), format!("/agents/{id}/logs")] {
        let said = stack.read(&holder, &path).await.to_string();
        assert!(!said.contains(CANARY) && !said.contains(token), "{path}");
    }
    assert!(!stack.get("/metrics").await.expect(200).to_string().contains(CANARY));
    let listed = serde_json::to_string(&stack.node_client().list().await.unwrap()).unwrap();
    assert!(!listed.contains(CANARY));
    stack.stop(&holder, id).await.expect(200);
    search(stack.dir.path(), &[CANARY]);
    stack.end();
}

/// The password of a key file.
const PASSWORD: &str = "a-word-3f9c1b7e5d2a4860";

#[tokio::test]
async fn a_pods_key_is_in_no_file_in_the_clear_and_goes_with_its_pod() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    stack.json(&["wallet", "link"]);
    let agent = stack.spawn("echo");
    // Its key is made, and its address is on the chain.
    let vault = stack.json(&["vault", "deploy", &agent]);
    assert_eq!(vault["state"], "deployed");
    stack.down();
    let keystore = stack.path("agent.json");
    let exported = stdout_of(&export(&stack, &agent, &keystore));
    let identity = Identity::load(&keystore, &PASSWORD.into()).unwrap();
    for shown in [&exported, &vault.to_string()] {
        assert!(shown.to_lowercase().contains(&identity.address().to_string().to_lowercase()), "{shown}");
    }
    search(&stack.state(), &[PASSWORD]);
    search_key(&stack.state(), &identity.secret());

    stack.up(&["--no-agent"]);
    stack.run(&["rm", &agent]);
    stack.down();
    let refused = export(&stack, &agent, &stack.path("again.json"));
    assert!(!refused.status.success() && stderr_of(&refused).contains("there is no POD"), "{refused:?}");
    search_key(&stack.state(), &identity.secret());
}

fn export(stack: &LocalStack, agent: &str, keystore: &Path) -> Output {
    let mut command = stack.command(&["pod", "identity", "export", agent, "--json", "--out"]);
    command.arg(keystore).arg("--config").arg(stack.state().join("palatine.toml"));
    command.env("POD_PASSWORD", PASSWORD).output().unwrap()
}

/// Looks for a key in every file: as bytes, and as what people write of it.
fn search_key(folder: &Path, secret: &SecretBox<[u8; 32]>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let digits = hex(secret.expose_secret());
    search(folder, &[&digits, &digits.to_uppercase()]);
    // `grep` looks into lines: the longest part without a line's end stands for all.
    let parts = secret.expose_secret().split(|byte| *byte == b'\n');
    let part = parts.max_by_key(|part| part.len()).unwrap();
    let pattern: String = part.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    assert_eq!(files_with(folder, &["-rlaP", "--", &pattern]), "", "the key's bytes are in a file");
}

/// The files of a folder of which `grep` says so.
fn files_with(folder: &Path, words: &[&str]) -> String {
    let found = Command::new("grep").args(words).arg(folder).env("LC_ALL", "C").output().unwrap();
    // What runs may remove a file meanwhile; nothing else keeps it from looking.
    let told = stderr_of(&found);
    assert!(told.lines().all(|line| line.ends_with(": No such file or directory")), "{told}");
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// Looks for the words in every file of a folder, guests' disks included, and in every
/// command line of the machine.
fn search(folder: &Path, words: &[&str]) {
    for word in words {
        let files = files_with(folder, &["-rlaF", "--", word]);
        assert!(files.is_empty(), "{word} is in:\n{files}");
        // `grep` itself has ended; what runs now has no reason to name it.
        let lines =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        for line in lines {
            assert!(!String::from_utf8_lossy(&line).contains(word), "{word} is on a command line");
        }
    }
}
