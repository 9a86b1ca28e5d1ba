//! Clients that others wrote, unmodified, on a machine that cannot resolve
//! `*.localhost`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use fixtures::{PLAIN, SMALL, SpawnedAgent, Stack, assets, stdout_of};
use serde_json::{Value, json};
use tokio::process::Command;

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file)
}

/// Runs a script beside the packages that it uses.
async fn node(script: &str, words: &[&str]) -> Output {
    let mut command = Command::new("node");
    command.current_dir(assets().join("clients")).args(["--input-type=module", "-"]).args(words);
    command.stdin(fs::File::open(here("npm").join(script)).unwrap()).output().await.unwrap()
}

/// The URL without a name, as `palatine spawn` prints it to people.
fn url_of(spawned: &str) -> String {
    let line = spawned.lines().find(|line| line.starts_with("http://127.0.0.1:")).expect("no URL without a name");
    line.split_whitespace().next().unwrap().to_owned()
}

fn token_of(spawned: &str) -> String {
    let line = spawned.lines().find_map(|line| line.strip_prefix("token ")).expect("no token");
    line.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn fault_2_11_openais_clients_talk_to_an_agent_by_the_url_that_is_stdout_of() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let run = |words: &[&str]| stdout_of(&stack.cli(&holder, words).output().unwrap());
    let spawned = run(&["spawn", "--type", "echo"]);
    let (url, token) = (url_of(&spawned), token_of(&spawned));
    let id = url.rsplit('/').next().unwrap();
    for words in [&["ls"][..], &["status", id]] {
        assert!(run(words).contains(&url), "{words:?}");
    }
    let base = format!("{url}/v1");

    let python = Command::new("python3")
        .arg(here("python/openai_client.py"))
        .args([&base, &token])
        .env("PYTHONPATH", assets().join("python"))
        .output();
    let words = [base.as_str(), token.as_str()];
    let (python, node) = tokio::join!(python, node("openai.mjs", &words));
    for (client, output) in [("python", python.unwrap()), ("node", node)] {
        let said: Value = serde_json::from_str(&stdout_of(&output)).unwrap();
        for how in ["whole", "streamed"] {
            assert!(said[how].as_str().unwrap().contains("is anybody there?"), "{client} {how}: {said}");
        }
        assert!(!said["models"].as_array().unwrap().is_empty(), "{client}: {said}");
    }
    stack.end();
}

/// Node's WebSocket has the browsers' own interface.
#[tokio::test]
async fn case_ws_browser_a_page_opens_a_web_socket_to_a_private_agent() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let agent = stack.agent(&holder).await;
    let url = agent.text("path_url").replacen("http", "ws", 1) + "/ws";
    let token = agent.text("token");
    let said: Value = serde_json::from_str(&stdout_of(&node("websocket.mjs", &[&url, token]).await)).unwrap();
    assert_eq!(said, json!({"data": "is anybody there?", "protocol": format!("palatine.token.{token}")}));
    assert!(!node("websocket.mjs", &[&url, "plt_wrong"]).await.status.success());
    stack.end();
}

/// The seed's example, as it is printed there.
const SEED: &str = r#"TIMESTAMP=$(date +%s)000
MESSAGE="romulus:$TIMESTAMP"
SIGNATURE=$(echo -n "$MESSAGE" | solana sign --keypair ~/.config/solana/id.json)

curl -X POST https://api.romulus.ai/spawn \
  -H "Content-Type: application/json" \
  -H "X-Wallet: <your-pubkey>" \
  -H "X-Signature: $SIGNATURE" \
  -H "X-Timestamp: $TIMESTAMP" \
  -d '{"agent_type": "coding"}'
"#;

#[tokio::test]
async fn fault_2_11_the_seeds_curl_example_works_as_stdout_of() {
    let mut stack = Stack::start(PLAIN).await;
    stack.offer("coding");
    let holder = stack.holder(SMALL);
    let home = stack.path("home");
    fs::create_dir_all(home.join(".config/solana")).unwrap();
    fs::create_dir_all(home.join("bin")).unwrap();
    holder.write_keypair(&home.join(".config/solana/id.json"));
    let solana = home.join("bin/solana");
    fs::write(&solana, format!("#!/bin/sh\nexec node {} \"$@\"\n", here("npm/solana.mjs").display())).unwrap();
    fs::set_permissions(&solana, fs::Permissions::from_mode(0o755)).unwrap();

    let example = SEED.replace("https://api.romulus.ai", &stack.url);
    let example = example.replace("<your-pubkey>", &holder.wallet().to_string());
    let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &example])
        .env("HOME", &home)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_str(&stdout_of(&output)).unwrap();
    assert_eq!((&said["success"], &said["agent"]["agent_type"]), (&json!(true), &json!("coding")), "{said}");
    // The seed's URL is the bare host.
    let agent = SpawnedAgent::of(&said);
    let host = agent.text("host");
    assert_eq!(agent.text("url"), format!("http://{host}"));
    assert!(host.starts_with(&agent.id), "{said}");
    stack.end();
}
