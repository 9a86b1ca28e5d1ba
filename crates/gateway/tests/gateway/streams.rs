//! Streams, and the shares of those who open them.

use axum::body::Body;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::edge::{Edge, PATIENCE, Setup, holder};
use domain::RunId;

/// An agent that says back what it is told, over web sockets.
async fn echo(edge: &Edge) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut to, mut from) = tokio_tungstenite::accept_async(stream).await.unwrap().split();
                while let Some(Ok(message)) = from.next().await {
                    if to.send(message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

type Socket = WebSocketStream<TcpStream>;

/// Opens a web socket; the status where it is refused.
async fn socket(edge: &Edge, id: RunId, token: Option<&str>) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/", edge.address).into_client_request().unwrap();
    request.headers_mut().insert("host", format!("{id}.localhost").parse().unwrap());
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let stream = TcpStream::connect(edge.address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn says_back(socket: &mut Socket) {
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn fault_2_4_web_sockets_of_visitors_leave_an_agents_holder_its_own_streams() {
    let mut setup = Setup::default();
    (setup.limits.streams, setup.limits.streams_per_agent, setup.limits.streams_per_address) = (12, 8, 100);
    let (edge, owner) = (setup.start().await, holder());
    echo(&edge).await;
    let (id, token) = edge.agent(&owner, true).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(socket(&edge, id, None).await.unwrap());
    }
    assert_eq!(socket(&edge, id, None).await.unwrap_err(), 429);
    let mut mine = socket(&edge, id, Some(&token)).await.unwrap();
    says_back(&mut mine).await;
    edge.setup.guests.logs.lock().unwrap().push_back(Body::from("a line\n"));
    let logs = edge.get(&owner, &format!("/agents/{id}/logs?follow=true")).await;
    assert_eq!((logs.status, &logs.body), (200, &"a line\n".into()));
    let command = edge.signed(&owner, Method::POST, &format!("/agents/{id}/process.Process/Start"), b"x");
    assert_eq!(command.send().await.unwrap().status(), 200);
    assert_eq!(edge.post(&owner, &format!("/stop/{id}"), &serde_json::Value::Null).await.status, 200);
}

#[tokio::test]
async fn fault_2_4_one_address_and_one_wallet_have_a_share_alone() {
    let mut setup = Setup::default();
    (setup.limits.streams_per_address, setup.limits.streams_per_wallet) = (2, 2);
    let (edge, owner) = (setup.start().await, holder());
    echo(&edge).await;
    let (id, token) = edge.agent(&owner, true).await;
    let _open = (socket(&edge, id, None).await.unwrap(), socket(&edge, id, None).await.unwrap());
    assert_eq!(socket(&edge, id, None).await.unwrap_err(), 429);
    assert!(socket(&edge, id, Some(&token)).await.is_ok());
    let mut reading = Vec::new();
    for _ in 0..2 {
        edge.setup.guests.logs.lock().unwrap().push_back(Body::from_stream(endless()));
        let request = edge.signed(&owner, Method::GET, &format!("/agents/{id}/logs?follow=true"), b"");
        reading.push(request.send().await.unwrap());
    }
    let refused = edge.get(&owner, &format!("/agents/{id}/logs?follow=true")).await;
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (429, "rate_limited", "1"));
    // Another wallet has its own share.
    let other = holder();
    let (its, _) = edge.agent(&other, false).await;
    edge.setup.guests.logs.lock().unwrap().push_back(Body::from("a line\n"));
    let read = edge.get(&other, &format!("/agents/{its}/logs?follow=true")).await;
    assert_eq!((read.status, &read.body), (200, &"a line\n".into()));
}

fn endless() -> impl futures_util::Stream<Item = Result<&'static str, std::io::Error>> {
    futures_util::stream::pending()
}

#[tokio::test]
async fn fault_2_4_a_web_socket_that_has_ended_gives_its_places_back() {
    let mut setup = Setup::default();
    (setup.limits.streams, setup.limits.streams_per_agent, setup.limits.streams_per_address) = (1, 1, 1);
    let edge = setup.start().await;
    echo(&edge).await;
    let (id, _) = edge.agent(&holder(), true).await;
    for _ in 0..3 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut next = loop {
            match socket(&edge, id, None).await {
                Ok(socket) => break socket,
                Err(status) => assert_eq!(status, 429),
            }
            assert!(tokio::time::Instant::now() < deadline, "its places are never free again");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        says_back(&mut next).await;
        next.close(None).await.unwrap();
    }
}

#[tokio::test]
async fn fault_2_4_a_web_socket_on_which_nothing_moves_is_ended() {
    let mut setup = Setup::default();
    setup.limits.stream_idle_ms = 200;
    let edge = setup.start().await;
    echo(&edge).await;
    let (id, _) = edge.agent(&holder(), true).await;
    let mut socket = socket(&edge, id, None).await.unwrap();
    says_back(&mut socket).await;
    let ended = tokio::time::timeout(PATIENCE, socket.next()).await.expect("it is never ended");
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
}
