//! The bytes of one connection in a WebSocket: how a port of an agent's is reached through
//! whatever lets HTTP alone pass. Gateway and client do the same at their ends.
//!
//! Each binary message is the next bytes of its direction. An empty one is the end of them,
//! after which the other direction goes on, as over TCP. A WebSocket that ends before both
//! have ended has broken off, and so has what it carried.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
pub use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

/// Bytes of one message that is sent.
const PIECE: usize = 16 * 1024;
/// Bytes of one that is taken.
const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes that wait to be written, beside those of one message.
const MAX_UNWRITTEN: usize = 2 * MAX_MESSAGE;
/// The silence after which a sign of life is sent: less than what proxies bear.
const SIGN_OF_LIFE: Duration = Duration::from_secs(25);

/// Why a connection was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The WebSocket failed.
    #[error("the tunnel broke off")]
    Socket(#[source] Box<tungstenite::Error>),
    /// The connection that it carries failed.
    #[error("the connection broke off")]
    Stream(#[from] io::Error),
    /// The other end hung up before all was said.
    #[error("the tunnel was ended at its other end")]
    Closed,
    /// The other end said what has no meaning here.
    #[error("the tunnel's other end sent text")]
    Text,
}

impl From<tungstenite::Error> for CarryError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Self::Closed,
            error => Self::Socket(Box::new(error)),
        }
    }
}

/// Carries a connection's bytes over what was upgraded to a WebSocket, until both directions
/// have ended.
///
/// # Errors
/// See [`CarryError`]: what came is not all, and the connection must not look as if it were.
pub async fn carry<S, T>(upgraded: S, role: Role, stream: &mut T) -> Result<(), CarryError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(PIECE)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNWRITTEN)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(upgraded, role, Some(config)).await;
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (received_all, mut other_ended) = oneshot::channel::<()>();
    let send = async {
        let mut buffer = vec![0; PIECE];
        loop {
            let Ok(read) = timeout(SIGN_OF_LIFE, reader.read(&mut buffer)).await else {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            };
            let count = read?;
            sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await?;
            if count == 0 {
                break;
            }
        }
        // Comes as an error, when its other half is dropped.
        while timeout(SIGN_OF_LIFE, &mut other_ended).await.is_err() {
            sink.send(Message::Ping(Bytes::new())).await?;
        }
        Ok::<_, CarryError>(())
    };
    let receive = async {
        let _received_all = received_all;
        while let Some(message) = messages.next().await {
            match message? {
                Message::Binary(bytes) if bytes.is_empty() => {
                    writer.shutdown().await?;
                    return Ok(());
                }
                Message::Binary(bytes) => writer.write_all(&bytes).await?,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Close(_) => break,
                Message::Text(_) => return Err(CarryError::Text),
            }
        }
        Err(CarryError::Closed)
    };
    tokio::try_join!(send, receive).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// A tunnel's two ends, and what is carried at each.
    fn tunnel() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<[Result<(), CarryError>; 2]>) {
        let (client, server) = duplex(1024);
        let (here, mut near) = duplex(64);
        let (there, mut far) = duplex(64);
        let carried = tokio::spawn(async move {
            let one = async { carry(client, Role::Client, &mut near).await };
            let other = async { carry(server, Role::Server, &mut far).await };
            let (one, other) = tokio::join!(one, other);
            [one, other]
        });
        (here, there, carried)
    }

    #[tokio::test]
    async fn bytes_come_through_whole_and_each_direction_ends_by_itself() {
        let (mut here, mut there, carried) = tunnel();
        let sent: Vec<u8> = (0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let asked = sent.clone();
        let answering = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.unwrap();
            assert!(all == asked, "the question ends, and its asker still listens");
            there.write_all(&all).await.unwrap();
            there.shutdown().await.unwrap();
        });
        here.write_all(&sent).await.unwrap();
        here.shutdown().await.unwrap();
        let mut back = Vec::new();
        here.read_to_end(&mut back).await.unwrap();
        assert!(back == sent);
        answering.await.unwrap();
        assert!(carried.await.unwrap().iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_at_one_end_is_no_end_of_bytes_at_the_other() {
        let (client, server) = duplex(1024);
        let (mut here, mut near) = duplex(64);
        here.write_all(b"half").await.unwrap();
        let (mut there, mut far) = duplex(64);
        let breaking = tokio::spawn(async move {
            tokio::select! {
                carried = carry(client, Role::Client, &mut near) => carried,
                read = async { let mut four = [0; 4]; there.read_exact(&mut four).await } => {
                    read.unwrap();
                    Ok(())
                }
            }
        });
        let other = carry(server, Role::Server, &mut far).await;
        assert!(other.is_err(), "{other:?}");
        breaking.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_shows_that_it_lives() {
        let (client, server) = duplex(1024);
        let (_here, mut near) = duplex(64);
        let carrying = tokio::spawn(async move { carry(client, Role::Client, &mut near).await });
        let mut socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        for _ in 0..3 {
            assert!(matches!(socket.next().await, Some(Ok(Message::Ping(_)))));
        }
        carrying.abort();
    }
}
