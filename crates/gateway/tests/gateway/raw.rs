//! Agents and clients that speak bytes, where a library would not say what a test
//! wants said.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::edge::{Edge, PATIENCE};
use crate::guest::FakeGuests;

/// The heads that an agent was sent.
pub(crate) type Heads = Arc<Mutex<Vec<String>>>;

/// An agent that answers each head with what `answer` makes of it, and hangs up.
pub(crate) async fn agent(guests: &FakeGuests, answer: impl Fn(&str) -> String + Send + 'static) -> Heads {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    guests.listens_at(listener.local_addr().unwrap());
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            let answer = answer(&head);
            seen.lock().unwrap().push(head);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    heads
}

/// Reads up to the empty line that ends a head.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match timeout(PATIENCE, stream.read_u8()).await.expect("no head comes") {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends this to the gateway and leaves the connection open.
pub(crate) async fn send(edge: &Edge, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Sends this to the gateway and reads the answer to the end of the connection.
pub(crate) async fn exchange(edge: &Edge, text: &str) -> String {
    exchange_at(edge.address, text).await
}

/// The same, at one of its other listeners.
pub(crate) async fn exchange_at(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the gateway never hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Writes a whole request with a body of so many bytes, and then reads the answer to the
/// end of the connection, as simple clients do.
pub(crate) async fn write_then_read(edge: &Edge, head: &str, length: usize) -> String {
    let mut stream = send(edge, &format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n")).await;
    stream.write_all(&vec![b' '; length]).await.expect("the gateway takes what is sent");
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the gateway never hangs up");
    read.expect("the answer is not lost");
    String::from_utf8_lossy(&answer).into_owned()
}
