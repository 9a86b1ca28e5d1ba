//! Idle timeouts: a stream on which no bytes move for too long is ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::edge::streams::broken_off;

/// Counts from the last bytes that moved.
#[derive(Clone, Debug)]
pub(crate) struct IdleTimer {
    began: Instant,
    /// Milliseconds from then to the last bytes.
    last: Arc<AtomicU64>,
}

impl IdleTimer {
    /// Begins to count.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Waits until no bytes have moved for so long.
    pub(crate) async fn expired(&self, most: Duration) {
        loop {
            let ends = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + most;
            if Instant::now() >= ends {
                return;
            }
            tokio::time::sleep_until(ends).await;
        }
    }

    /// An answer that breaks off when no bytes have moved for so long.
    pub(crate) fn bound(self, answer: axum::body::Body, most: Duration) -> axum::body::Body {
        broken_off(answer, async move { self.expired(most).await }, "nothing has moved for too long")
    }

    /// The same body, or the same connection, whose bytes restart the timer.
    pub(crate) fn wrap<T>(&self, inner: T) -> Timed<T> {
        Timed { inner, timer: self.clone() }
    }
}

/// A body or a connection whose bytes restart a timer.
pub(crate) struct Timed<T> {
    inner: T,
    timer: IdleTimer,
}

impl<T: Body<Data = Bytes> + Unpin> Body for Timed<T> {
    type Data = Bytes;
    type Error = T::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, T::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.timer.touch();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Timed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        self.timer.touch();
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_timeout_is_counted_from_the_last_bytes() {
        let (timer, began) = (IdleTimer::new(), Instant::now());
        tokio::time::sleep(Duration::from_secs(7)).await;
        timer.touch();
        timer.expired(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(17));
    }
}
