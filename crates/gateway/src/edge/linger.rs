//! Lingering close: the end of a connection whose client is still sending.
//!
//! A request may be answered before its body is read: its payment is missing, or it is
//! too large. A socket that is closed with bytes unread resets the connection, and the
//! client, which is still writing, may never see the answer. So what comes after our
//! last byte is read and thrown away, for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that are thrown away at most: four times what a request that is paid for may
/// have as its body, unless that is configured.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long a client is waited for that does not hang up.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Bytes that are thrown away at once.
const CHUNK: usize = 16 * 1024;
/// Chunks of one turn: other connections have theirs in between.
const CHUNKS: usize = 16;

/// Whether a connection lingers when it is shut down.
#[derive(Clone, Debug)]
pub(crate) struct LingerFlag(Arc<AtomicBool>);

impl LingerFlag {
    /// A request may be answered before its body is read; after an upgrade, what comes is
    /// not ours to read.
    pub(crate) fn set(&self, linger: bool) {
        self.0.store(linger, Ordering::Relaxed);
    }
}

/// A connection that may be closed with a delay.
pub(crate) struct LingeringStream<I> {
    io: I,
    linger: LingerFlag,
    end: End,
}

/// How far a shutdown is.
enum End {
    /// It was not asked for, or our side is not closed yet.
    Open,
    /// Our side is closed, and so many bytes more are thrown away until then.
    Draining(usize, Pin<Box<Sleep>>),
    /// Nothing more is waited for.
    Over,
}

impl<I> LingeringStream<I> {
    /// A stream that lingers unless it is told otherwise: what is not a request is answered
    /// too.
    pub(crate) fn new(io: I) -> (Self, LingerFlag) {
        let linger = LingerFlag(Arc::new(AtomicBool::new(true)));
        (Self { io, linger: linger.clone(), end: End::Open }, linger)
    }
}

/// Throws away what has come. Ready when the client has hung up, or this was all that
/// may come.
fn drain(io: Pin<&mut (impl AsyncRead + ?Sized)>, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    let mut io = io;
    for _ in 0..CHUNKS {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        let read = ready!(io.as_mut().poll_read(cx, &mut chunk));
        let count = chunk.filled().len();
        *left = left.saturating_sub(count);
        if read.is_err() || count == 0 || *left == 0 {
            return Poll::Ready(());
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<I: AsyncRead + Unpin> AsyncRead for LingeringStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Open => {
                    ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                    let linger = this.linger.0.load(Ordering::Relaxed);
                    let wait = || End::Draining(MAX_BYTES, Box::pin(tokio::time::sleep(MAX_WAIT)));
                    this.end = if linger { wait() } else { End::Over };
                }
                End::Draining(left, wait) => {
                    if wait.as_mut().poll(cx).is_pending() {
                        ready!(drain(Pin::new(&mut this.io), left, cx));
                    }
                    this.end = End::Over;
                }
                End::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// A connection that is being shut down, and its client.
    fn ending(linger: bool) -> (DuplexStream, JoinHandle<io::Result<()>>) {
        let (client, io) = duplex(CHUNK);
        let (mut io, flag) = LingeringStream::new(io);
        flag.set(linger);
        (client, tokio::spawn(async move { io.shutdown().await }))
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_8_what_a_client_still_sends_is_taken_until_it_hangs_up() {
        let (mut client, end) = ending(true);
        client.write_all(&vec![1; MAX_BYTES / 4]).await.unwrap();
        // Our side is closed at once.
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(!end.is_finished());
        drop(client);
        end.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_8_a_client_is_not_waited_for_longer_or_for_more_than_this() {
        let began = Instant::now();
        let (_silent, end) = ending(true);
        end.await.unwrap().unwrap();
        assert_eq!(began.elapsed(), MAX_WAIT);
        let (mut endless, end) = ending(true);
        let sent = tokio::spawn(async move { while endless.write_all(&[1; CHUNK]).await.is_ok() {} });
        end.await.unwrap().unwrap();
        sent.await.unwrap();
        assert_eq!(began.elapsed(), MAX_WAIT, "the bytes ended it");
        let (_other, end) = ending(false);
        end.await.unwrap().unwrap();
        assert_eq!(began.elapsed(), MAX_WAIT, "it was told not to");
    }
}
