//! Commands inside an agent: a guest of the test's own, over the process protocol.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream;
use palatine_client::{AttachedAgain, ClientError, ExecCommand, ExitStatus};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, Empty};
use tokio::sync::mpsc;
use wire::connect::Envelope;
use wire::fault::{Code, Fault};
use wire::process::{Output, ProcessEvent, PtySize, RpcCode, Selector, Signal};

use crate::gateway::{Gateway, ID, SOON, TOKEN, Then, fault, paced, start};

/// What a test sees of the calls.
#[derive(Clone, Default)]
struct Guest {
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// Where `cat`'s input goes.
    cat: Arc<Mutex<Option<mpsc::Sender<Bytes>>>>,
}

fn envelope(end: bool, message: &Value) -> Bytes {
    let mut bytes = BytesMut::new();
    Envelope { end, message: message.to_string().into() }.encode(&mut bytes);
    bytes.freeze()
}

fn event(event: &Value) -> Bytes {
    envelope(false, &json!({"event": event}))
}

fn ended(code: i32) -> Bytes {
    event(&json!({"end": {"exitCode": code, "exited": true, "status": format!("exit status {code}")}}))
}

fn stream_of(body: Body) -> Response {
    ([("content-type", "application/connect+json")], body).into_response()
}

fn answers(frames: Vec<Bytes>, then: Then) -> Response {
    let frames = paced(frames.into_iter().map(Ok).collect());
    stream_of(Body::from_stream(frames.chain(then.stream())))
}

/// Shows the token to whoever has signed.
async fn token(State(guest): State<Guest>) -> Json<Value> {
    guest.seen.lock().unwrap().push(("token".into(), json!({})));
    Json(json!({"token": TOKEN, "run": ID}))
}

async fn call(State(guest): State<Guest>, Path(method): Path<String>, headers: HeaderMap, body: Body) -> Response {
    if method == "StreamInput" {
        assert_eq!(headers["content-type"], "application/connect+json");
        return take(guest, body);
    }
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let mut bytes = BytesMut::from(&body[..]);
    let request: Value = if matches!(method.as_str(), "Start" | "Connect") {
        assert_eq!(headers["content-type"], "application/connect+json");
        assert_eq!(headers["keepalive-ping-interval"], "1");
        serde_json::from_slice(&Envelope::decode(&mut bytes).unwrap().unwrap().message).unwrap()
    } else {
        assert_eq!(headers["content-type"], "application/json");
        serde_json::from_slice(&body).unwrap()
    };
    guest.seen.lock().unwrap().push((method.clone(), request.clone()));
    match method.as_str() {
        "Start" => run(&guest, &request),
        "Connect" => again(&request),
        "SendInput" => {
            let error = json!({"code": "not_found", "message": "no such process"});
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
        "CloseStdin" => {
            guest.cat.lock().unwrap().take();
            Json(json!({})).into_response()
        }
        _ => Json(json!({})).into_response(),
    }
}

/// Takes input as it comes, into `cat` where it runs.
fn take(guest: Guest, body: Body) -> Response {
    let answer = stream::once(async move {
        let (mut body, mut bytes, mut count) = (body.into_data_stream(), BytesMut::new(), 0);
        while let Some(piece) = body.next().await {
            let Ok(piece) = piece else {
                guest.seen.lock().unwrap().push(("StreamInput".into(), json!("broken")));
                return Err(std::io::Error::other("broken"));
            };
            bytes.extend_from_slice(&piece);
            while let Some(one) = Envelope::decode(&mut bytes).unwrap() {
                let message: Value = serde_json::from_slice(&one.message).unwrap();
                count += 1;
                let to = guest.cat.lock().unwrap().clone();
                match (&message["data"]["input"]["stdin"], to) {
                    (Value::Null, _) => {}
                    (data, Some(to)) => to.send(event(&json!({"data": {"stdout": data}}))).await.unwrap(),
                    (_, None) => {
                        let error = json!({"error": {"code": "not_found", "message": "no such process"}});
                        return Ok(envelope(true, &error));
                    }
                }
            }
        }
        guest.seen.lock().unwrap().push(("StreamInput".into(), json!(count)));
        Ok([envelope(false, &json!({})), envelope(true, &json!({}))].concat().into())
    });
    stream_of(Body::from_stream(answer.map(|bytes: Result<Bytes, _>| bytes)))
}

/// What one who attaches again is told: the processes differ in what the guest still has.
fn again(request: &Value) -> Response {
    let started = event(&json!({"start": {"pid": 7}}));
    let data = |text: &str| event(&json!({"data": {"pty": wire::process::Base64(text.as_bytes().to_vec())}}));
    let (offset, output) = match request["process"]["tag"].as_str() {
        Some("kept") => (Some("1"), vec![data("i"), data("\nmore")]),
        Some("forgotten") => (Some("8"), vec![data("more")]),
        Some("old") => (None, vec![data("hi\nmore")]),
        _ => {
            let error = json!({"error": {"code": "not_found", "message": "no such process"}});
            return answers(vec![envelope(true, &error)], Then::Ends);
        }
    };
    let frames = [vec![started], output, vec![ended(4), envelope(true, &json!({}))]].concat();
    let mut response = answers(frames, Then::Ends);
    if let Some(offset) = offset {
        response.headers_mut().insert("palatine-output-offset", offset.parse().unwrap());
    }
    response
}

/// The guest's programs.
fn run(guest: &Guest, request: &Value) -> Response {
    let started = event(&json!({"start": {"pid": 7}}));
    let out = event(&json!({"data": {"stdout": "aGkK"}}));
    match request["process"]["cmd"].as_str().unwrap() {
        "hi" => {
            let err = event(&json!({"data": {"stderr": "b2gK"}}));
            let alive = event(&json!({"keepalive": {}}));
            answers(vec![started, out, alive, err, ended(3), envelope(true, &json!({}))], Then::Ends)
        }
        "cat" => {
            let (to, from) = mpsc::channel(4);
            *guest.cat.lock().unwrap() = Some(to);
            let echoed = stream::unfold(from, |mut from| async { Some((from.recv().await?, from)) });
            let frames = stream::iter([started]).chain(echoed).chain(stream::iter([ended(0)]));
            stream_of(Body::from_stream(frames.map(Ok::<_, std::io::Error>)))
        }
        "killed" => {
            let end = event(&json!({"end": {"exitCode": -1, "exited": false, "status": "signal: killed"}}));
            answers(vec![started, end], Then::Hangs)
        }
        "none" => {
            let error = json!({"error": {"code": "invalid_argument", "message": "no such program"}});
            answers(vec![envelope(true, &error)], Then::Ends)
        }
        "dies" => answers(vec![started, out], Then::Ends),
        "breaks" => answers(vec![started, out], Then::Breaks),
        "hangs" => answers(vec![started, out], Then::Hangs),
        "garbage" => answers(vec![Bytes::from("\x04garbage")], Then::Ends),
        "html" => "<html>".into_response(),
        "elsewhere" => fault(Fault::new(Code::AgentNotReady, "not yet")),
        other => unreachable!("{other}"),
    }
}

async fn guest() -> (Gateway, Guest) {
    let guest = Guest::default();
    let app = Router::new()
        .route("/agents/{id}/token", get(token))
        .route("/process.Process/{method}", post(call))
        .with_state(guest.clone());
    (start(app).await, guest)
}

fn command(program: &str) -> ExecCommand {
    ExecCommand { argv: vec![program.to_owned(), "-x".to_owned()], ..ExecCommand::default() }
}

async fn outcome(gateway: &Gateway, program: &str) -> (Result<ExitStatus, ClientError>, Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = match gateway.hasty.exec(ID.into(), &command(program)).await {
        Ok(process) => {
            tokio::time::timeout(SOON, process.run(None::<Empty>, &mut out, &mut err, pending())).await.unwrap()
        }
        Err(error) => Err(error),
    };
    (exit, out, err)
}

#[tokio::test]
async fn output_goes_where_it_belongs_and_the_exit_code_comes_back() {
    let (gateway, guest) = guest().await;
    let command = ExecCommand {
        argv: vec!["hi".into(), "-x".into()],
        cwd: Some("/data".into()),
        envs: BTreeMap::from([("A".into(), "1".into())]),
        ..ExecCommand::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let process = gateway.client.exec(ID.into(), &command).await.unwrap();
    let exit = process.run(None::<Empty>, &mut out, &mut err, pending()).await.unwrap();
    assert_eq!(exit, ExitStatus { code: Some(3), signal: None, status: "exit status 3".into() });
    assert_eq!((out.as_slice(), err.as_slice()), (&b"hi\n"[..], &b"oh\n"[..]));
    let process = json!({"cmd": "hi", "args": ["-x"], "envs": {"A": "1"}, "cwd": "/data"});
    assert_eq!(guest.seen.lock().unwrap()[1].1, json!({"process": process, "stdin": false}));
}

#[tokio::test]
async fn case_exec_stdin_input_takes_one_signature_and_comes_back_whole() {
    let (gateway, guest) = guest().await;
    let sent: Vec<u8> = (0..2_500_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let process = gateway.client.exec(ID.into(), &ExecCommand { stdin: true, ..command("cat") }).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let input = std::io::Cursor::new(sent.clone());
    let run = process.run(Some(input), &mut out, &mut err, pending());
    let exit = tokio::time::timeout(SOON, run).await.unwrap().unwrap();
    assert_eq!(exit.code, Some(0));
    assert!(out == sent);
    let methods: Vec<_> = guest.seen.lock().unwrap().iter().map(|(method, _)| method.clone()).collect();
    // The one call that is signed is the first.
    assert_eq!(methods, ["token", "Start", "StreamInput", "CloseStdin"]);
}

/// Input that comes to no end, by itself or by an error.
struct Torn;

impl tokio::io::AsyncRead for Torn {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("torn")))
    }
}

#[tokio::test]
async fn case_exec_stdin_a_run_that_fails_ends_its_command() {
    let (gateway, guest) = guest().await;
    let process = gateway.client.exec(ID.into(), &ExecCommand { stdin: true, ..command("hangs") }).await.unwrap();
    let failed = process.run(Some(Torn), Vec::new(), Vec::new(), pending()).await.unwrap_err();
    assert!(matches!(failed, ClientError::Local { .. }), "{failed}");
    let seen = guest.seen.lock().unwrap().clone();
    let kill = ("SendSignal".into(), json!({"process": {"pid": 7}, "signal": "SIGNAL_SIGKILL"}));
    assert!(seen.contains(&kill), "{seen:?}");
}

#[tokio::test]
async fn case_exec_stdin_a_run_that_is_interrupted_ends_its_command() {
    let (gateway, guest) = guest().await;
    let process = gateway.hasty.exec(ID.into(), &command("hangs")).await.unwrap();
    let run = process.run(None::<Empty>, Vec::new(), Vec::new(), ready(()));
    assert!(tokio::time::timeout(SOON, run).await.unwrap().is_err());
    let seen = guest.seen.lock().unwrap();
    let signals: Vec<_> =
        seen.iter().filter(|(method, _)| method == "SendSignal").map(|(_, it)| &it["signal"]).collect();
    assert_eq!(signals[0], "SIGNAL_SIGTERM");
    assert!(signals[1..].iter().all(|signal| *signal == "SIGNAL_SIGKILL") && signals.len() > 1, "{signals:?}");
}

#[tokio::test]
async fn a_command_that_reads_none_of_its_input_ends_by_itself() {
    let (gateway, _) = guest().await;
    let process = gateway.client.exec(ID.into(), &ExecCommand { stdin: true, ..command("hi") }).await.unwrap();
    let endless = tokio::io::repeat(b'y').take(1 << 20);
    let exit = tokio::time::timeout(SOON, process.run(Some(endless), Vec::new(), Vec::new(), pending()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(exit.code, Some(3));
}

#[tokio::test]
async fn case_exit_code_a_process_that_a_signal_ended_has_the_code_that_shells_give_it() {
    let (gateway, _) = guest().await;
    let (exit, ..) = outcome(&gateway, "killed").await;
    assert_eq!(exit.unwrap(), ExitStatus { code: Some(137), signal: Some(9), status: "signal: killed".into() });
}

#[tokio::test]
async fn signals_reach_the_process_from_aside() {
    let (gateway, guest) = guest().await;
    let process = gateway.client.exec(ID.into(), &command("hangs")).await.unwrap();
    let handle = process.handle();
    assert_eq!(handle.pid(), 7);
    handle.signal(Signal::Term).await.unwrap();
    let seen = guest.seen.lock().unwrap();
    assert_eq!(seen[2], ("SendSignal".into(), json!({"process": {"pid": 7}, "signal": "SIGNAL_SIGTERM"})));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_the_guests_own_refusal() {
    let (gateway, _) = guest().await;
    let (exit, ..) = outcome(&gateway, "none").await;
    let Err(ClientError::Rpc(error)) = exit else { panic!("{exit:?}") };
    assert_eq!((error.code, error.message.as_str()), (RpcCode::InvalidArgument, "no such program"));
    let process = gateway.client.exec(ID.into(), &command("hi")).await.unwrap();
    let error = process.handle().send_input(b"x").await.unwrap_err();
    assert!(matches!(error, ClientError::Rpc(error) if error.code == RpcCode::NotFound));
}

#[tokio::test]
async fn an_agent_that_dies_hangs_or_lies_under_a_command_is_an_error_and_never_a_hang() {
    let (gateway, _) = guest().await;
    for (program, said, wrote) in [
        ("dies", "broke off", true),
        ("breaks", "no answer from", true),
        ("hangs", "nothing was heard", true),
        ("garbage", "unknown flags", false),
        ("html", "of the type", false),
    ] {
        let (exit, out, _) = outcome(&gateway, program).await;
        let error = exit.unwrap_err().to_string();
        assert!(error.contains(said), "{program}: {error}");
        assert_eq!(out == b"hi\n", wrote, "{program}");
    }
    let (exit, ..) = outcome(&gateway, "elsewhere").await;
    assert_eq!(exit.unwrap_err().code(), Some(Code::AgentNotReady));
    assert!(gateway.client.exec(ID.into(), &ExecCommand::default()).await.is_err());
}

#[tokio::test]
async fn output_is_written_as_it_comes() {
    let (gateway, _) = guest().await;
    let process = gateway.client.exec(ID.into(), &command("hangs")).await.unwrap();
    let (out, mut reader) = tokio::io::duplex(64);
    let running = tokio::spawn(process.run(None::<Empty>, out, tokio::io::sink(), pending()));
    let mut line = [0; 3];
    tokio::time::timeout(Duration::from_millis(400), reader.read_exact(&mut line)).await.unwrap().unwrap();
    assert_eq!(&line, b"hi\n");
    running.abort();
}

#[tokio::test]
async fn an_api_key_opens_an_agent_without_a_token() {
    let (gateway, guest) = guest().await;
    let keyed = gateway.client.clone().with_key(TOKEN.to_owned().into());
    let process = keyed.exec(ID.into(), &command("hi")).await.unwrap();
    assert_eq!(process.run(None::<Empty>, Vec::new(), Vec::new(), pending()).await.unwrap().code, Some(3));
    assert_eq!(guest.seen.lock().unwrap()[0].0, "Start");
    let other = gateway.client.access_by(ID.into(), &"plt_other".to_owned().into()).unwrap();
    let refused = other.exec(&command("hi")).await.err().unwrap();
    assert_eq!((refused.guest_status(), refused.may_pass()), (Some(401), false), "{refused:?}");
}

/// A shell that broke off, and what of its output is new when it is attached to again.
async fn attached_again(tag: &str) -> (Result<AttachedAgain, ClientError>, String, Option<i32>) {
    let (gateway, guest) = guest().await;
    let size = PtySize { cols: 80, rows: 24 };
    let shell = ExecCommand { terminal: Some(size), tag: Some(tag.to_owned()), ..command("dies") };
    let mut process = gateway.client.exec(ID.into(), &shell).await.unwrap();
    assert_eq!(guest.seen.lock().unwrap()[1].1["pty"], json!({"size": {"cols": 80, "rows": 24}}));
    assert!(matches!(process.next().await, Some(Ok(ProcessEvent::Data(_)))));
    let broken = process.next().await.unwrap().unwrap_err();
    assert!(broken.may_pass(), "{broken}");
    assert!(process.next().await.is_none());
    let again = process.attach_again().await;
    let (mut text, mut code) = (String::new(), None);
    while let Some(event) = process.next().await {
        match event.unwrap() {
            ProcessEvent::Data(Output::Pty(bytes)) => text.push_str(std::str::from_utf8(&bytes.0).unwrap()),
            ProcessEvent::End(ended) => code = Some(ended.exit_code),
            other => panic!("{other:?}"),
        }
    }
    (again, text, code)
}

#[tokio::test]
async fn who_attaches_again_gets_what_it_has_not_seen_and_hears_what_is_lost() {
    let (again, text, code) = attached_again("kept").await;
    assert_eq!((again.unwrap(), text.as_str(), code), (AttachedAgain::Seamless, "more", Some(4)));
    let (again, text, code) = attached_again("forgotten").await;
    assert_eq!((again.unwrap(), text.as_str(), code), (AttachedAgain::Lost(5), "more", Some(4)));
    let (again, text, _) = attached_again("old").await;
    assert_eq!((again.unwrap(), text.as_str()), (AttachedAgain::Repeated, "hi\nmore"));
    let (again, text, code) = attached_again("gone").await;
    let Err(ClientError::Rpc(error)) = again else { panic!("{again:?}") };
    assert_eq!((error.code, text.as_str(), code), (RpcCode::NotFound, "", None));
}

#[tokio::test]
async fn a_process_is_named_by_what_it_was_started_or_attached_to_by() {
    let (gateway, guest) = guest().await;
    let access = gateway.client.access(ID.into()).await.unwrap();
    let process = access.attach(Selector::Tag("kept".to_owned())).await.unwrap();
    process.handle().send_keys(b"x").await.unwrap_err();
    process.handle().resize(PtySize { cols: 5, rows: 4 }).await.unwrap();
    let seen = guest.seen.lock().unwrap();
    let named = json!({"tag": "kept"});
    let input = json!({"process": named, "input": {"pty": "eA=="}});
    let size = json!({"process": named, "pty": {"size": {"cols": 5, "rows": 4}}});
    assert_eq!(seen[2..], [("SendInput".into(), input), ("Update".into(), size)]);
}
