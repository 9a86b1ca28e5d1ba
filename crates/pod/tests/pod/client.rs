//! Calls to a pod.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use fixtures::PATIENCE;
use futures_util::stream::unfold;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep, timeout};
use wire::connect::Envelope;

use crate::TOKEN;

/// One that speaks to a `pod`, or to its agent.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    port: u16,
    token: Option<&'static str>,
    /// Where commands find the program of these tests.
    pub(crate) bin: &'static str,
}

impl Client {
    /// Speaks to `pod` as the node does.
    pub(crate) fn of(port: u16, bin: &'static str) -> Self {
        Self { port, token: Some(TOKEN), bin }
    }

    /// Speaks to the agent.
    pub(crate) fn of_agent(port: u16) -> Self {
        Self { port, token: None, bin: "" }
    }

    /// The same with another token.
    pub(crate) fn with(self, token: Option<&'static str>) -> Self {
        Self { token, ..self }
    }

    /// Sends a request and takes the answer's head.
    pub(crate) async fn send(
        self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<http::Response<Incoming>, anyhow::Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "guest");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        Ok(sender.send_request(request.body(Full::new(body.into()))?).await?)
    }

    /// The status and the body of an answer.
    pub(crate) async fn ask(self, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        let json = [("content-type", "application/json")];
        let answer = self.send(method, path, &json, body.to_owned()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn get(self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, "").await
    }

    pub(crate) async fn post(self, path: &str, body: &Value) -> (StatusCode, String) {
        self.ask(Method::POST, path, &body.to_string()).await
    }

    /// `GET /v1/status?…`.
    pub(crate) async fn status(self, query: &str) -> Value {
        let (status, body) = self.get(&format!("/v1/status{query}")).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the pod listens; `check` fails where it never will.
    pub(crate) async fn until_up(self, mut check: impl FnMut()) {
        let since = Instant::now();
        loop {
            let up = timeout(Duration::from_secs(5), self.send(Method::GET, "/health", &[], "")).await;
            if matches!(up, Ok(Ok(answer)) if answer.status() == 204) {
                return;
            }
            check();
            assert!(since.elapsed() < PATIENCE, "the pod does not listen");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends these bytes through a tunnel to a port at the guest's loopback, ends its own half,
    /// and gives all that comes back; `None` where nobody listens there.
    pub(crate) async fn through_tunnel(self, port: u16, bytes: &[u8]) -> Option<String> {
        let upgrade = [("connection", "upgrade"), ("upgrade", "palatine-tunnel")];
        let path = format!("/v1/tunnel?port={port}");
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::get(path).header("host", "guest");
        for (name, value) in upgrade {
            request = request.header(name, value);
        }
        let request = request.header("authorization", format!("Bearer {}", self.token.unwrap()));
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        if answer.status() == StatusCode::BAD_GATEWAY {
            return None;
        }
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        tunnel.write_all(bytes).await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut heard = String::new();
        tunnel.read_to_string(&mut heard).await.unwrap();
        Some(heard)
    }

    /// A stream call of the process protocol.
    pub(crate) async fn stream(self, call: &str, headers: &[(&str, &str)], message: &Value) -> Stream {
        self.stream_of(&format!("/process.Process/{call}"), headers, message).await
    }

    /// A stream call, by its path.
    pub(crate) async fn stream_of(self, path: &str, headers: &[(&str, &str)], message: &Value) -> Stream {
        let mut body = BytesMut::new();
        Envelope { end: false, message: message.to_string().into() }.encode(&mut body);
        let mut all = vec![("content-type", wire::process::STREAM_TYPE)];
        all.extend_from_slice(headers);
        let answer = self.send(Method::POST, path, &all, body.freeze()).await.unwrap();
        assert_eq!(answer.status(), 200);
        Stream::of(answer)
    }

    /// A stream call whose request goes on: what is sent into the channel.
    pub(crate) async fn upload(self, call: &str) -> (mpsc::Sender<io::Result<Value>>, Stream) {
        let (messages, pieces) = mpsc::channel::<io::Result<Value>>(1);
        let frames = unfold(pieces, |mut pieces| async move {
            let frame = pieces.recv().await?.map(|message| {
                let mut bytes = BytesMut::new();
                Envelope { end: false, message: message.to_string().into() }.encode(&mut bytes);
                Frame::data(bytes.freeze())
            });
            Some((frame, pieces))
        });
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("/process.Process/{call}"))
            .header("host", "guest")
            .header("content-type", wire::process::STREAM_TYPE)
            .header("authorization", format!("Bearer {}", self.token.unwrap()));
        let request = request.body(StreamBody::new(Box::pin(frames))).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("the answer begins at once").unwrap();
        assert_eq!(answer.status(), 200);
        (messages, Stream::of(answer))
    }

    /// A unary call of the process protocol.
    pub(crate) async fn unary(self, call: &str, message: &Value) -> (StatusCode, Value) {
        let (status, body) = self.post(&format!("/process.Process/{call}"), message).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// The answer of a stream call.
pub(crate) struct Stream {
    body: Incoming,
    bytes: BytesMut,
    /// Bytes of output before those that come, where that is said.
    pub(crate) offset: Option<usize>,
}

impl Stream {
    fn of(answer: Response<Incoming>) -> Self {
        let offset = answer.headers().get(wire::process::OFFSET_HEADER);
        let offset = offset.map(|offset| offset.to_str().unwrap().parse().unwrap());
        Self { body: answer.into_body(), bytes: BytesMut::new(), offset }
    }

    /// The next message, and whether it is the end of the stream; `None` where
    /// the connection ended.
    pub(crate) async fn next(&mut self) -> Option<(bool, Value)> {
        loop {
            if let Some(envelope) = Envelope::decode(&mut self.bytes).unwrap() {
                return Some((envelope.end, serde_json::from_slice(&envelope.message).unwrap()));
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("the stream hangs")?;
            self.bytes.extend_from_slice(&frame.ok()?.into_data().unwrap_or_default());
        }
    }

    /// All that is left: output, the `end` event, the error of the end of stream.
    pub(crate) async fn rest(&mut self) -> Rest {
        use base64::Engine as _;
        let mut rest = Rest::default();
        while let Some((end, message)) = self.next().await {
            if end {
                rest.error = message["error"]["code"].as_str().map(str::to_owned);
                rest.whole = true;
            }
            if let Some(data) = message["event"]["data"].as_object() {
                let text = data.values().next().unwrap().as_str().unwrap();
                rest.output.extend(base64::engine::general_purpose::STANDARD.decode(text).unwrap());
            }
            if message["event"]["end"].is_object() {
                rest.end = message["event"]["end"].clone();
            }
        }
        rest
    }
}

/// The rest of a stream.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub(crate) output: Vec<u8>,
    pub(crate) end: Value,
    pub(crate) error: Option<String>,
    pub(crate) whole: bool,
}

impl Rest {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}
