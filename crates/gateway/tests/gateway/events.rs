//! Streams to a holder: events and logs.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::edge::{Edge, PATIENCE, Setup, holder};

/// Reads the next event of a stream: its id and data.
async fn event(
    stream: &mut (impl StreamExt<Item = reqwest::Result<Bytes>> + Unpin),
    held: &mut String,
) -> (u64, Value) {
    loop {
        if let Some((block, rest)) = held.split_once("\n\n") {
            let (block, rest) = (block.to_owned(), rest.to_owned());
            *held = rest;
            if block.starts_with(':') {
                continue;
            }
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            assert_eq!(field("event:"), "state");
            return (field("id:").parse().unwrap(), serde_json::from_str(&field("data:")).unwrap());
        }
        let chunk = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
        held.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

async fn ends(response: Response) -> bool {
    tokio::time::timeout(PATIENCE, response.bytes()).await.is_ok()
}

#[tokio::test]
async fn every_change_of_state_is_told_and_the_stream_ends_with_the_agent() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let path = format!("/agents/{id}/events");
    let response = edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let mut held = String::new();
    let mut told = vec![event(&mut stream, &mut held).await];
    while told.last().unwrap().1["state"] != "ready" {
        told.push(event(&mut stream, &mut held).await);
    }
    edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await;
    while told.last().unwrap().1["state"] != "stopped" {
        told.push(event(&mut stream, &mut held).await);
    }
    let states: Vec<&str> = told.iter().map(|(_, data)| data["state"].as_str().unwrap()).collect();
    assert_eq!((states[0], &states[states.len() - 3..]), ("reserved", &["ready", "stopping", "stopped"][..]));
    let ids = told.iter().map(|(id, _)| *id);
    assert!(ids.eq(1..=u64::try_from(told.len()).unwrap()), "{told:?}");
    assert_eq!(told.last().unwrap().1["reason"], "requested");
    assert!(tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let ready = edge.store.get(id).await.unwrap().unwrap().changes;
    let request = edge.signed(&holder, Method::GET, &format!("/agents/{id}/events"), b"");
    let mut stream = request.header("Last-Event-ID", ready - 1).send().await.unwrap().bytes_stream();
    let (seq, data) = event(&mut stream, &mut String::new()).await;
    assert_eq!((seq, &data["state"]), (ready, &json!("ready")));
    edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await;
    let request = edge.signed(&holder, Method::GET, &format!("/agents/{id}/events"), b"");
    let ended = request.header("Last-Event-ID", ready + 2).send().await.unwrap();
    assert_eq!(ended.status(), 200);
    assert!(ends(ended).await);
}

#[tokio::test]
async fn a_followed_log_arrives_line_by_line() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let (lines, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    edge.setup.guests.logs.lock().unwrap().push_back(Body::from_stream(ReceiverStream::new(body)));
    let path = format!("/agents/{id}/logs?follow=true");
    lines.send(Ok("one\n".into())).await.unwrap();
    let mut stream = edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap().bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "one\n");
    lines.send(Ok("two\n".into())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "two\n");
    drop(stream);
    tokio::time::timeout(PATIENCE, lines.closed()).await.expect("the node is told that nobody reads any more");
}

#[tokio::test]
async fn a_gateway_that_goes_down_breaks_its_streams_off_and_finishes_its_requests() {
    let (edge, holder) = (Edge::start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let lines = futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"one\n")) });
    let lines = Body::from_stream(lines.chain(futures_util::stream::pending()));
    edge.setup.guests.logs.lock().unwrap().push_back(lines);
    let read = async |what: &str| {
        let path = format!("/agents/{id}/{what}");
        edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap()
    };
    let cut = [read("events").await, read("logs?follow=true").await];
    edge.stop.cancel();
    for response in cut {
        let path = response.url().path().to_owned();
        let told = tokio::time::timeout(PATIENCE, response.bytes()).await.expect("it ends");
        assert!(told.is_err(), "{path} is taken for whole");
    }
    tokio::time::timeout(PATIENCE, edge.task).await.unwrap().unwrap().unwrap();
    assert!(edge.client.get(format!("http://{}/health", edge.address)).send().await.is_err());
}

#[tokio::test]
async fn streams_are_bounded() {
    let mut setup = Setup::default();
    setup.limits.streams = 1;
    let (edge, holder) = (setup.start().await, holder());
    let (id, _) = edge.agent(&holder, false).await;
    let path = format!("/agents/{id}/events");
    let open = edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap();
    let second = edge.get(&holder, &path).await;
    assert_eq!((second.status, second.code()), (429, "rate_limited"));
    drop(open);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let again = edge.signed(&holder, Method::GET, &path, b"").send().await.unwrap();
        if again.status() == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the place is never free again");
    }
}

#[tokio::test]
async fn a_spawn_under_way_is_answered_before_the_gateway_goes_down() {
    let setup = Setup::default();
    setup.node.set_boot(Some(Duration::from_millis(300)));
    let (edge, holder) = (setup.start().await, holder());
    let spawning = tokio::spawn(edge.signed(&holder, Method::POST, "/spawn", br#"{"agent_type":"echo"}"#).send());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while edge.store.live_of(holder.wallet()).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the spawn never begins");
    }
    edge.stop.cancel();
    let answer = spawning.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (200, &"close".parse().unwrap()));
    edge.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_drain_in_time_is_ended() {
    let mut setup = Setup::default();
    setup.config.drain_ms = 100;
    let edge = setup.start().await;
    let mut stuck = TcpStream::connect(edge.address).await.unwrap();
    let head = "POST /agents HTTP/1.1\r\nHost: x\r\nX-Wallet: x\r\nContent-Length: 9\r\n\r\n";
    stuck.write_all(head.as_bytes()).await.unwrap();
    // The gateway has it in hand once it has taken the connection after it.
    assert_eq!(edge.client.get(edge.url("/health")).send().await.unwrap().status(), 200);
    edge.stop.cancel();
    tokio::time::timeout(PATIENCE, edge.task).await.unwrap().unwrap().unwrap();
}
