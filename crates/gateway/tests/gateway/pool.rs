//! Connections to agents: kept, bounded, never mixed up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use fixtures::until_holds;
use futures_util::future::join_all;
use reqwest::Method;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::edge::{Answer, Edge, Setup, holder};

/// An agent that answers when it is let, and counts who is being answered.
#[derive(Clone)]
struct Slow {
    gate: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
}

impl Slow {
    async fn serve(edge: &Edge) -> Self {
        let slow = Self { gate: Arc::new(Semaphore::new(0)), inside: Arc::default() };
        let theirs = slow.clone();
        let app = Router::new().fallback(any(move || {
            let slow = theirs.clone();
            async move {
                slow.inside.fetch_add(1, Ordering::SeqCst);
                slow.gate.acquire().await.unwrap().forget();
                "at last"
            }
        }));
        edge.setup.guests.serves(app).await;
        slow
    }

    async fn holds(&self, count: usize) {
        until_holds("the agent is asked", || self.inside.load(Ordering::SeqCst) == count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_burst_502_a_burst_for_one_agent_is_answered_and_its_neighbour_untouched() {
    let edge = Edge::start().await;
    edge.setup.guests.serves(Router::new().fallback(any(async || "here"))).await;
    *edge.setup.guests.tunnels.slow.lock().unwrap() = Duration::from_millis(20);
    let ((busy, token), (neighbour, other)) = (edge.agent(&holder(), false).await, edge.agent(&holder(), false).await);
    let burst = (0..250).map(|_| Answer::of(edge.to_agent(busy, Method::GET, "/").bearer_auth(&token)));
    let few = (0..10).map(|_| Answer::of(edge.to_agent(neighbour, Method::POST, "/").bearer_auth(&other)));
    let (burst, few) = tokio::join!(join_all(burst), join_all(few));
    let statuses = |answers: &[Answer]| answers.iter().map(|answer| answer.status).collect::<Vec<_>>();
    assert_eq!(statuses(&burst), [200; 250]);
    assert_eq!(statuses(&few), [200; 10]);
    let most = edge.setup.guests.tunnels.most.load(Ordering::SeqCst);
    assert!(most <= edge.setup.limits.agent_connections as usize, "{most}");
}

#[tokio::test]
async fn fault_2_12_a_connection_is_used_again_and_only_for_its_own_agent() {
    let edge = Edge::start().await;
    let agents = [edge.agent(&holder(), true).await.0, edge.agent(&holder(), true).await.0];
    for id in agents {
        edge.setup.guests.serves_as(id, Router::new().fallback(any(async move || id.to_string()))).await;
    }
    for _ in 0..10 {
        for id in agents {
            let answer = Answer::of(edge.to_agent(id, Method::GET, "/")).await;
            assert_eq!((answer.status, &answer.body), (200, &id.to_string().into()));
            // The answer may be here before its connection is free again.
            until_holds("nobody is answered", || edge.setup.guests.tunnels.now(id) == 1).await;
        }
    }
    let opened = edge.setup.guests.tunnels.opened.lock().unwrap().len();
    assert!(opened <= 6, "{opened} connections for 20 requests");
}

/// An agent that reads no body, and takes what is left of one for the next request. It
/// says what it was asked; `/slow` is answered when more has come.
async fn deaf(edge: &Edge) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            tokio::spawn(async move {
                loop {
                    let (mut first, mut line) = (String::new(), String::new());
                    if stream.read_line(&mut first).await.unwrap_or(0) == 0 {
                        return;
                    }
                    while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                        line.clear();
                    }
                    if first.contains("/slow") && stream.fill_buf().await.is_ok_and(<[u8]>::is_empty) {
                        return;
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{first}", first.len());
                    if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[tokio::test]
async fn fault_2_1_what_a_visitor_writes_into_a_body_is_no_request_and_nobodys_answer() {
    let mut setup = Setup::default();
    setup.limits.agent_idle_ms = 500;
    let edge = setup.start().await;
    deaf(&edge).await;
    let (id, token) = edge.agent(&holder(), true).await;
    let smuggles = |path: &str| edge.to_agent(id, Method::POST, path).body("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    let said = |answer: Answer| answer.body.as_str().unwrap().trim().to_owned();
    for turn in 0..2 {
        let first = Answer::of(smuggles(&format!("/free/{turn}"))).await;
        assert_eq!(said(first), format!("POST /free/{turn} HTTP/1.1"));
        let mine = Answer::of(edge.to_agent(id, Method::GET, "/mine").bearer_auth(&token)).await;
        assert_eq!(said(mine), "GET /mine HTTP/1.1", "the holder");
        let first = Answer::of(smuggles(&format!("/free/{turn}"))).await;
        assert_eq!(said(first), format!("POST /free/{turn} HTTP/1.1"));
        let other = Answer::of(edge.to_agent(id, Method::GET, "/theirs")).await;
        assert_eq!(said(other), "GET /theirs HTTP/1.1", "another visitor");
        let first = Answer::of(smuggles("/own").bearer_auth(&token)).await;
        assert_eq!(said(first), "POST /own HTTP/1.1");
        let other = Answer::of(edge.to_agent(id, Method::GET, "/theirs")).await;
        assert_eq!(said(other), "GET /theirs HTTP/1.1", "after the holder");
        // What the holder left on a connection is its own doing, and gone in a while.
        let left = || edge.setup.guests.tunnels.now(id);
        until_holds("the connections are closed", || left() == 0).await;
    }
}

#[tokio::test]
async fn fault_2_12_a_client_whose_body_breaks_off_is_told_so_and_the_agent_is_not_blamed() {
    let edge = Edge::start().await;
    edge.setup.guests.serves(Router::new().fallback(any(crate::ingress::mirror))).await;
    let (id, _) = edge.agent(&holder(), true).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {id}.localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let answer = crate::raw::exchange(&edge, &format!("{head}5\r\nhello\r\nno number\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_request"), "{answer}");
}

#[tokio::test]
async fn fault_2_12_who_waits_too_long_for_a_connection_is_told_when_to_try_again() {
    let mut setup = Setup::default();
    (setup.limits.agent_connections, setup.limits.agent_wait_ms) = (2, 100);
    let edge = setup.start().await;
    let slow = Slow::serve(&edge).await;
    let (id, token) = edge.agent(&holder(), false).await;
    let ask = || Answer::of(edge.to_agent(id, Method::POST, "/").bearer_auth(&token));
    let (answered, refused) = tokio::join!(join_all([ask(), ask()]), async {
        slow.holds(2).await;
        let refused = ask().await;
        slow.gate.add_permits(3);
        refused
    });
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "agent_busy", "1"));
    assert!(answered.iter().all(|answer| answer.status == 200));
    assert_eq!(ask().await.status, 200);
}

#[tokio::test]
async fn fault_2_12_visitors_cannot_keep_an_agent_from_its_holder() {
    let mut setup = Setup::default();
    (setup.limits.agent_connections, setup.limits.agent_wait_ms) = (4, 100);
    setup.limits.agent_connections_per_address = 2;
    let edge = setup.start().await;
    let slow = Slow::serve(&edge).await;
    let (id, token) = edge.agent(&holder(), true).await;
    // One address has two of the three that visitors may have.
    let (visitors, mine) =
        tokio::join!(join_all((0..8).map(|_| Answer::of(edge.to_agent(id, Method::GET, "/")))), async {
            slow.holds(2).await;
            let mine = edge.to_agent(id, Method::GET, "/").bearer_auth(&token).send();
            let mine = tokio::spawn(mine);
            slow.holds(3).await;
            slow.gate.add_permits(16);
            mine.await.unwrap().unwrap().status()
        });
    assert_eq!(mine, 200);
    assert!(visitors.iter().all(|answer| answer.status == 200 || answer.code() == "agent_busy"), "{visitors:?}");
}

#[tokio::test]
async fn fault_2_12_an_agent_that_takes_no_more_connections_is_busy_and_one_that_takes_none_is_dead() {
    let mut setup = Setup::default();
    setup.limits.agent_connect_ms = 50;
    let edge = setup.start().await;
    let slow = Slow::serve(&edge).await;
    let (id, token) = edge.agent(&holder(), false).await;
    let ask = || Answer::of(edge.to_agent(id, Method::POST, "/").bearer_auth(&token));
    *edge.setup.guests.tunnels.slow.lock().unwrap() = Duration::from_secs(60);
    assert_eq!(ask().await.code(), "agent_unreachable");
    *edge.setup.guests.tunnels.slow.lock().unwrap() = Duration::ZERO;
    let (first, busy) = tokio::join!(ask(), async {
        slow.holds(1).await;
        *edge.setup.guests.tunnels.slow.lock().unwrap() = Duration::from_secs(60);
        let busy = ask().await;
        slow.gate.add_permits(1);
        busy
    });
    assert_eq!((first.status, busy.code()), (200, "agent_busy"));
}

/// An agent whose connections are good for one request each, which it does not say:
/// it closes when the second comes. Says what it was asked.
async fn treacherous(edge: &Edge) -> Arc<std::sync::Mutex<Vec<String>>> {
    async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        stream.read_line(&mut first).await.ok().filter(|count| *count > 0)?;
        while stream.read_line(&mut line).await.ok()? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        Some(first.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.setup.guests.listens_at(listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, told) = (listener.accept().await.unwrap().0, Arc::clone(&told));
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let Some(first) = request(&mut stream).await else { return };
                told.lock().unwrap().push(first);
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                let Some(second) = request(&mut stream).await else { return };
                told.lock().unwrap().push(second);
            });
        }
    });
    asked
}

#[tokio::test]
async fn fault_2_12_what_may_have_had_an_effect_is_not_sent_twice() {
    let edge = Edge::start().await;
    let asked = treacherous(&edge).await;
    let (id, token) = edge.agent(&holder(), false).await;
    let ask = |method: Method, path: &str| edge.to_agent(id, method, path).bearer_auth(&token);
    let kept = || async { until_holds("the connection is kept", || edge.setup.guests.tunnels.now(id) == 1).await };
    assert_eq!(Answer::of(ask(Method::GET, "/1")).await.status, 200);
    kept().await;
    // Closed under it; a question without effect is asked again.
    assert_eq!(Answer::of(ask(Method::GET, "/2")).await.status, 200);
    kept().await;
    let lost = Answer::of(ask(Method::POST, "/3").body("x")).await;
    assert_eq!((lost.status, lost.code()), (502, "agent_unreachable"));
    let put = Answer::of(ask(Method::PUT, "/4").body("x")).await;
    assert_eq!(put.status, 200);
    let asked = asked.lock().unwrap().clone();
    let times = |what: &str| asked.iter().filter(|one| *one == what).count();
    assert_eq!((times("GET /2"), times("POST /3"), times("PUT /4")), (2, 1, 1), "{asked:?}");
}

#[tokio::test]
async fn fault_2_12_a_connection_that_nobody_uses_is_closed() {
    let mut setup = Setup::default();
    setup.limits.agent_idle_ms = 100;
    let edge = setup.start().await;
    edge.setup.guests.serves(Router::new().fallback(any(async || "here"))).await;
    let (id, token) = edge.agent(&holder(), false).await;
    assert_eq!(Answer::of(edge.to_agent(id, Method::GET, "/").bearer_auth(&token)).await.status, 200);
    until_holds("it is closed", || edge.setup.guests.tunnels.now(id) == 0).await;
}

#[tokio::test]
async fn fault_2_12_a_client_that_goes_away_leaves_its_connection_to_nobody() {
    let mut setup = Setup::default();
    setup.limits.agent_connections = 1;
    let edge = setup.start().await;
    let slow = Slow::serve(&edge).await;
    let (id, token) = edge.agent(&holder(), false).await;
    let gone = tokio::spawn(edge.to_agent(id, Method::POST, "/").bearer_auth(&token).send());
    slow.holds(1).await;
    gone.abort();
    let next = tokio::spawn(edge.to_agent(id, Method::POST, "/").bearer_auth(&token).send());
    slow.holds(2).await;
    slow.gate.add_permits(2);
    assert_eq!(next.await.unwrap().unwrap().status(), 200);
    assert_eq!(edge.setup.guests.tunnels.opened.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn fault_2_4_an_answer_that_falls_silent_is_ended() {
    let mut setup = Setup::default();
    (setup.limits.stream_idle_ms, setup.limits.agent_connections) = (100, 1);
    let edge = setup.start().await;
    let app = Router::new().fallback(any(async || {
        let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("first") });
        axum::body::Body::from_stream(futures_util::StreamExt::chain(first, futures_util::stream::pending()))
    }));
    edge.setup.guests.serves(app).await;
    let (id, token) = edge.agent(&holder(), false).await;
    for _ in 0..2 {
        let answer = edge.to_agent(id, Method::GET, "/").bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "it ends as if it were whole");
    }
}
