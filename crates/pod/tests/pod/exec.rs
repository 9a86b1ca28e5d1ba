//! The process protocol, wherever the pod runs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt as _;
use wire::connect::Envelope;

use crate::TOKEN;
use crate::client::{Client, Rest, Stream};

/// Runs the test's agent program with these arguments and gives what it printed.
pub(crate) async fn run(pod: Client, arguments: &[&str]) -> String {
    let rest = start(pod, arguments, &json!({"stdin": false})).await.1.rest().await;
    assert_eq!(rest.end["exitCode"], 0, "{arguments:?}: {rest:?}");
    rest.text()
}

/// Runs a program as this user, and gives what it printed.
pub(crate) async fn run_as(pod: Client, user: &str, program: &str, arguments: &[&str]) -> String {
    let basic = format!("Basic {}", STANDARD.encode(format!("{user}:")));
    let headers = [("authorization", basic.as_str()), ("x-access-token", TOKEN)];
    let message = json!({"process": {"cmd": program, "args": arguments}, "stdin": false});
    let rest = pod.with(None).stream("Start", &headers, &message).await.rest().await;
    assert_eq!(rest.end["exitCode"], 0, "{program} {arguments:?}: {rest:?}");
    rest.text()
}

/// Everything a holder does with commands.
pub(crate) async fn runs_commands(pod: Client) {
    exit_codes_arrive(pod).await;
    input_is_read_as_it_is_sent(pod).await;
    case_exec_stdin_input_goes_over_one_call_as_fast_as_it_is_read(pod).await;
    case_exec_stdin_a_process_whose_input_breaks_off_is_ended(pod).await;
    what_cannot_be_started_is_refused(pod).await;
    commands_can_be_killed_by_signal_and_by_deadline(pod).await;
    a_command_that_leaves_a_child_behind_ends_all_the_same(pod).await;
    a_lost_client_can_attach_again(pod).await;
    a_terminal_is_a_terminal(pod).await;
    the_number_of_commands_is_bounded(pod).await;
    messages_in_protobuf_say_the_same(pod).await;
}

pub(crate) async fn start(pod: Client, arguments: &[&str], more: &Value) -> (u64, Stream) {
    start_with(pod, arguments, more, &[]).await
}

async fn start_with(pod: Client, arguments: &[&str], more: &Value, headers: &[(&str, &str)]) -> (u64, Stream) {
    let mut message = json!({"process": {"cmd": "agent", "args": arguments, "envs": {"PATH": pod.bin}}});
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut stream = pod.stream("Start", headers, &message).await;
    let (_, first) = stream.next().await.unwrap();
    let pid = first["event"]["start"]["pid"].as_u64().unwrap_or_else(|| panic!("not started: {first}"));
    (pid, stream)
}

async fn refused(pod: Client, message: Value) -> Rest {
    pod.stream("Start", &[], &message).await.rest().await
}

async fn exit_codes_arrive(pod: Client) {
    let rest = start(pod, &["exit", "3"], &json!({})).await.1.rest().await;
    let end = json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!((rest.end, rest.error, rest.whole), (end, None, true));
}

async fn input_is_read_as_it_is_sent(pod: Client) {
    let (pid, mut stream) = start(pod, &["cat"], &json!({"stdin": true, "tag": "cat"})).await;
    let (_, list) = pod.unary("List", &json!({})).await;
    assert_eq!(list["processes"][0]["pid"], pid, "{list}");
    assert!(list["processes"][0]["config"]["envs"].is_null(), "variables are not listed: {list}");
    let send = |text: &str| json!({"process": {"tag": "cat"}, "input": {"stdin": STANDARD.encode(text)}});
    assert_eq!(pod.unary("SendInput", &send("hello\n")).await, (http::StatusCode::OK, json!({})));
    let (_, message) = stream.next().await.unwrap();
    assert_eq!(message["event"]["data"]["stdout"], STANDARD.encode("hello\n"));
    let large = "x".repeat(100_000);
    assert_eq!(pod.unary("SendInput", &send(&large)).await.0, 200);
    assert_eq!(pod.unary("CloseStdin", &json!({"process": {"pid": pid}})).await.0, 200);
    let rest = stream.rest().await;
    assert_eq!((rest.text().len(), &rest.end["exitCode"]), (large.len(), &json!(0)));
    let (status, error) = pod.unary("SendInput", &send("late")).await;
    assert_eq!((status.as_u16(), &error["code"]), (400, &json!("failed_precondition")), "{error}");
}

fn data(bytes: &[u8]) -> Value {
    json!({"data": {"input": {"stdin": STANDARD.encode(bytes)}}})
}

async fn case_exec_stdin_input_goes_over_one_call_as_fast_as_it_is_read(pod: Client) {
    const PIECE: usize = 32 * 1024;
    let (pid, mut stream) = start(pod, &["cat"], &json!({"stdin": true})).await;
    let reading = tokio::spawn(async move { stream.rest().await });
    let (messages, mut answer) = pod.upload("StreamInput").await;
    messages.send(Ok(json!({"start": {"process": {"pid": pid}}}))).await.unwrap();
    messages.send(Ok(json!({"keepalive": {}}))).await.unwrap();
    for _ in 0..80 {
        messages.send(Ok(data(&[7; PIECE]))).await.unwrap();
    }
    drop(messages);
    assert_eq!((answer.next().await, answer.next().await), (Some((false, json!({}))), Some((true, json!({})))));
    assert_eq!(pod.unary("CloseStdin", &json!({"process": {"pid": pid}})).await.0, 200);
    let rest = reading.await.unwrap();
    assert_eq!((rest.output.len(), &rest.end["exitCode"]), (80 * PIECE, &json!(0)));
    // One that reads nothing holds its sender back, and lets it go when it ends.
    let (pid, mut stream) = start(pod, &["sleep", "3600"], &json!({"stdin": true})).await;
    let (messages, mut answer) = pod.upload("StreamInput").await;
    messages.send(Ok(json!({"start": {"process": {"pid": pid}}}))).await.unwrap();
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(2), messages.send(Ok(data(&[7; PIECE])))).await.is_ok() {
        sent += PIECE;
        assert!(sent < 1 << 26, "nothing holds the sender back");
    }
    assert_eq!(pod.unary("SendSignal", &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})).await.0, 200);
    let end = answer.next().await.unwrap();
    let code = end.1["error"]["code"].as_str().unwrap();
    assert!(end.0 && ["not_found", "failed_precondition"].contains(&code), "{end:?}");
    assert_eq!(stream.rest().await.end["status"], "signal: killed");
}

async fn case_exec_stdin_a_process_whose_input_breaks_off_is_ended(pod: Client) {
    let (pid, mut stream) = start(pod, &["cat"], &json!({"stdin": true})).await;
    let (messages, _answer) = pod.upload("StreamInput").await;
    messages.send(Ok(json!({"start": {"process": {"pid": pid}}}))).await.unwrap();
    messages.send(Ok(data(b"half\n"))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().1["event"]["data"]["stdout"], STANDARD.encode("half\n"));
    messages.send(Err(std::io::ErrorKind::BrokenPipe.into())).await.unwrap();
    assert_eq!(stream.rest().await.end["status"], "signal: hangup");
}

async fn what_cannot_be_started_is_refused(pod: Client) {
    for process in [json!({"cmd": "/no/such/program"}), json!({"cmd": "agent", "cwd": "/no/such/place"}), json!({})] {
        let rest = refused(pod, json!({"process": process})).await;
        assert_eq!(rest.error.as_deref(), Some("invalid_argument"), "{process}: {rest:?}");
    }
    let (status, error) = pod.unary("SendSignal", &json!({"process": {"pid": 1}, "signal": "SIGNAL_SIGKILL"})).await;
    assert_eq!((status.as_u16(), &error["code"]), (404, &json!("not_found")), "{error}");
    let (status, error) = pod.unary("Nonsense", &json!({})).await;
    assert_eq!((status.as_u16(), &error["code"]), (501, &json!("unimplemented")), "{error}");
}

async fn commands_can_be_killed_by_signal_and_by_deadline(pod: Client) {
    let (pid, mut stream) = start(pod, &["sleep", "3600"], &json!({})).await;
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(pod.unary("SendSignal", &kill).await.0, 200);
    let rest = stream.rest().await;
    assert_eq!((&rest.end["exitCode"], &rest.end["status"]), (&json!(-1), &json!("signal: killed")), "{rest:?}");
    let headers = [("connect-timeout-ms", "500"), ("keepalive-ping-interval", "1")];
    let (pid, mut stream) = start_with(pod, &["sleep", "3600"], &json!({}), &headers).await;
    let rest = stream.rest().await;
    assert_eq!(rest.error.as_deref(), Some("deadline_exceeded"), "{rest:?}");
    let rest = pod.stream("Connect", &[], &json!({"process": {"pid": pid}})).await.rest().await;
    assert_eq!(rest.end["status"], "signal: killed", "{rest:?}");
}

async fn a_command_that_leaves_a_child_behind_ends_all_the_same(pod: Client) {
    let before = Instant::now();
    let (pid, mut stream) = start(pod, &["leave"], &json!({"stdin": false})).await;
    let rest = stream.rest().await;
    assert!(rest.text().starts_with("left ") && rest.end["exitCode"] == 0, "{rest:?}");
    assert!(before.elapsed() < Duration::from_secs(30));
    let again = pod.unary("SendSignal", &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"})).await;
    assert_eq!(again.0, 404, "an ended command is not signalled: {}", again.1);
}

async fn a_lost_client_can_attach_again(pod: Client) {
    let (pid, stream) = start(pod, &["flood", "3000"], &json!({"stdin": false})).await;
    drop(stream);
    let mut again = pod.stream("Connect", &[], &json!({"process": {"pid": pid}})).await;
    let offset = again.offset.unwrap();
    let rest = again.rest().await;
    let written: usize = (0..3000).map(|n| format!("line {n} {}\n", "x".repeat(80)).len()).sum();
    assert_eq!(offset + rest.output.len(), written, "it is told what is forgotten");
    assert!(rest.text().contains("line 2999") && rest.whole, "the end of the output is kept: {}", rest.output.len());
    assert_eq!(rest.end["exitCode"], 0);
    let (_, mut stream) = start(pod, &["flood", "3000"], &json!({"stdin": false})).await;
    let text = stream.rest().await.text();
    assert_eq!(text.lines().count(), 3000, "an attached client misses nothing");
}

async fn a_terminal_is_a_terminal(pod: Client) {
    let pty = json!({"pty": {"size": {"cols": 80, "rows": 24}}});
    let (pid, mut stream) = start(pod, &["cat"], &pty).await;
    let send = |text: &str| json!({"process": {"pid": pid}, "input": {"pty": STANDARD.encode(text)}});
    let size = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 100, "rows": 30}}});
    assert_eq!(pod.unary("Update", &size).await.0, 200);
    assert_eq!(pod.unary("SendInput", &send("hi\n")).await.0, 200);
    assert_eq!(pod.unary("CloseStdin", &json!({"process": {"pid": pid}})).await.0, 400);
    assert_eq!(pod.unary("SendInput", &send("\u{4}")).await.0, 200);
    let rest = stream.rest().await;
    assert_eq!((&*rest.text(), &rest.end["exitCode"]), ("hi\r\nhi\r\n", &json!(0)));
}

async fn the_number_of_commands_is_bounded(pod: Client) {
    let mut running = Vec::new();
    let error = loop {
        let mut stream =
            pod.stream("Start", &[], &json!({"process": {"cmd": format!("{}/agent", pod.bin), "args": ["cat"]}})).await;
        let (end, message) = stream.next().await.unwrap();
        if end {
            break message;
        }
        running.push((message["event"]["start"]["pid"].clone(), stream));
        assert!(running.len() <= 64, "commands are not bounded");
    };
    assert_eq!(error["error"]["code"], "resource_exhausted", "{error}");
    for (pid, _) in &running {
        pod.unary("SendSignal", &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})).await;
    }
    for (_, mut stream) in running {
        assert_eq!(stream.rest().await.end["exitCode"], -1);
    }
}

/// A field of a protobuf message that is a text, bytes or a message, of fewer than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128, "its length would take two bytes");
    [&[(number << 3) | 2, length], bytes].concat()
}

/// An answer's status, content type and bytes.
async fn bytes_of(pod: Client, path: &str, kind: &str, body: Vec<u8>) -> (u16, String, Vec<u8>) {
    let answer = pod.send(Method::POST, path, &[("content-type", kind)], body).await.unwrap();
    let (head, body) = answer.into_parts();
    let kind = head.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    (head.status.as_u16(), kind.unwrap_or_default(), bytes)
}

async fn messages_in_protobuf_say_the_same(pod: Client) {
    let config = [field(1, format!("{}/agent", pod.bin).as_bytes()), field(2, b"exit"), field(2, b"3")].concat();
    let mut start = BytesMut::new();
    Envelope { end: false, message: field(1, &config).into() }.encode(&mut start);
    let stream = "application/connect+proto";
    let (status, kind, bytes) = bytes_of(pod, "/process.Process/Start", stream, start.to_vec()).await;
    assert_eq!((status, kind.as_str()), (200, stream));
    let mut bytes = BytesMut::from(&bytes[..]);
    let said: Vec<_> = std::iter::from_fn(|| Envelope::decode(&mut bytes).unwrap()).collect();
    let [started, ended, end] = &said[..] else { panic!("{said:?}") };
    assert_eq!(started.message[0], 0x0a, "{said:?}");
    // Code 3 as a `sint32`, that it exited by itself, and the words twice.
    let words = b"exit status 3";
    let event = [&[8, 6, 16, 1][..], &field(3, words), &field(4, words)].concat();
    assert_eq!(ended.message[..], field(1, &field(3, &event)));
    assert_eq!((end.end, &end.message[..]), (true, &b"{}"[..]), "what ends a stream is JSON");

    let unary = "application/proto";
    let stat = |path: &'static str| bytes_of(pod, "/filesystem.Filesystem/Stat", unary, field(1, path.as_bytes()));
    let (status, kind, bytes) = stat("/proc").await;
    assert_eq!((status, kind.as_str()), (200, unary));
    // A folder of this name at this path.
    let begins = [field(1, b"proc"), vec![16, 2], field(3, b"/proc")].concat();
    assert!(bytes.windows(begins.len()).any(|part| part == begins), "{bytes:?}");
    let (status, kind, bytes) = stat("/absent").await;
    assert_eq!((status, kind.as_str()), (404, "application/json"), "a failure is JSON");
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["code"], "not_found");
    let (status, _, bytes) = bytes_of(pod, "/process.Process/SendSignal", unary, vec![0x10, 9]).await;
    let error: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")));
    assert!(error["message"].as_str().unwrap().contains("neither pid nor tag"), "{error}");
    let other = pod.send(Method::POST, "/process.Process/List", &[("content-type", "text/plain")], "").await.unwrap();
    let known = other.headers()["accept-post"].to_str().unwrap();
    assert_eq!((other.status().as_u16(), known), (415, "application/json, application/proto"));
}
