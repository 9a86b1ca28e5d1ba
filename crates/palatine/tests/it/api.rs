//! The public API as anyone may speak it: by cURL, with signatures of other tools.

use std::process::Command;

use fixtures::{Holder, PLAIN, SMALL, SpawnedAgent, Stack};
use serde_json::{Value, json};

/// Signs `romulus:<now>` with OpenSSL, as any tool could, and encodes it with
/// Node: nothing of ours takes part.
fn sign_elsewhere(stack: &Stack, holder: &Holder) -> (String, String) {
    use secrecy::ExposeSecret;
    let timestamp = holder.instant().to_string();
    let keypair: Vec<u8> = serde_json::from_str(holder.keypair.to_json().expose_secret()).unwrap();
    // RFC 8410: the fixed head of an Ed25519 private key in PKCS #8.
    let mut der = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend_from_slice(&keypair[..32]);
    let (key, message, signature) = (stack.path("key.der"), stack.path("message"), stack.path("signature"));
    std::fs::write(&key, der).unwrap();
    std::fs::write(&message, format!("romulus:{timestamp}")).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey"]).arg(&key).arg("-in").arg(&message);
    let status = openssl.arg("-out").arg(&signature).status().unwrap();
    assert!(status.success());
    (timestamp, bs58::encode(std::fs::read(signature).unwrap()).into_string())
}

fn curl(arguments: &[&str]) -> (u16, Value) {
    let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}"]).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let parsed = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    (status.parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))), parsed)
}

#[tokio::test]
async fn the_seeds_curl_example_works_from_spawn_to_stop() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let send = |method: &str, path: &str, body: &str| {
        let (timestamp, signature) = sign_elsewhere(&stack, &holder);
        let wallet = format!("X-Wallet: {}", holder.wallet());
        let (signature, timestamp) = (format!("X-Signature: {signature}"), format!("X-Timestamp: {timestamp}"));
        let url = format!("{}{path}", stack.url);
        let json = "Content-Type: application/json";
        curl(&["-X", method, &url, "-H", json, "-H", &wallet, "-H", &signature, "-H", &timestamp, "-d", body])
    };
    let (status, spawned) = send("POST", "/spawn", r#"{"agent_type": "echo"}"#);
    assert_eq!(status, 200, "{spawned}");
    let agent = SpawnedAgent::of(&spawned);
    let (id, url) = (agent.id.as_str(), agent.text("url"));

    let bearer = format!("Authorization: Bearer {}", agent.text("token"));
    let question = r#"{"model": "default", "messages": [{"role": "user", "content": "hello, curl"}]}"#;
    let chat = format!("{url}/v1/chat/completions");
    let (status, said) = curl(&[&chat, "-H", &bearer, "-H", "Content-Type: application/json", "-d", question]);
    assert_eq!(status, 200, "{said}");
    assert!(said.to_string().contains("hello, curl"));
    assert_eq!(curl(&[&chat, "-d", question]).0, 401);

    let (status, body) = send("GET", &format!("/status/{id}"), "");
    assert_eq!((status, &body["agent"]["state"]), (200, &json!("ready")));
    let (status, body) = send("GET", &format!("/usage/{}", holder.wallet()), "");
    assert_eq!((status, &body["active_agent"]["id"]), (200, &json!(id)));
    let (status, body) = send("POST", &format!("/stop/{id}"), "");
    assert_eq!((status, &body["success"]), (200, &json!(true)));
    assert_eq!(send("GET", "/agents", "").1["agents"][0]["state"], "stopped");
    let (status, tiers) = curl(&[&format!("{}/tiers", stack.url)]);
    assert_eq!((status, &tiers["tiers"]["small"]["min"]), (200, &json!(SMALL)));
    stack.end();
}

#[tokio::test]
async fn the_served_documents_are_the_golden_ones() {
    let stack = Stack::start(PLAIN).await;
    let golden = |name: &str| -> Value {
        let path = format!("{}/../../openapi/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))).unwrap()
    };
    assert_eq!(
        stack.get("/openapi.json").await.expect(200),
        golden("public"),
        "run ./dev openapi and look at the change"
    );
    let node = stack.node_client().openapi().await.unwrap();
    assert_eq!(node, golden("node"), "run ./dev openapi and look at the change");
    stack.end();
}

#[tokio::test]
async fn every_program_tells_its_metrics_and_a_trace_id_runs_through_all_three() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = stack.signed(&holder, reqwest::Method::POST, "/spawn", &json!({"agent_type": "echo"}));
    let answer = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    for log in ["palatine.log", "hypercore.log"] {
        let text = std::fs::read_to_string(stack.path(log)).unwrap();
        assert!(text.contains(trace), "{log} does not name the trace");
    }
    let id = SpawnedAgent::of(&answer.json().await.unwrap()).id;
    let console = stack.read(&holder, &format!("/agents/{id}/logs?source=console")).await;
    let logs = stack.read(&holder, &format!("/agents/{id}/logs")).await;
    let seen = [console, logs].iter().any(|said| said.to_string().contains(trace));
    assert!(seen, "pod does not name the trace");
    assert!(stack.get("/metrics").await.expect(200).to_string().contains("# TYPE"));
    assert!(stack.node_client().metrics().await.unwrap().contains("# TYPE"));
    stack.end();
}
