//! Whether anything still moves: a stream that is silent for too long is ended.

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

/// When something moved last.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Milliseconds from then to the last movement.
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Something has just moved.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }

    fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for so long.
    pub(crate) async fn silent(&self, most: Duration) {
        loop {
            let ends = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + most;
            if Instant::now() >= ends {
                return;
            }
            tokio::time::sleep_until(ends).await;
        }
    }

    /// The same body, or the same connection, which tells when its bytes move.
    pub(crate) fn of<T>(&self, inner: T) -> Pulsed<T> {
        Pulsed { inner, pulse: self.clone() }
    }
}

/// What tells when its bytes move.
pub(crate) struct Pulsed<T> {
    inner: T,
    pulse: Pulse,
}

impl<T: Body<Data = Bytes> + Unpin> Body for Pulsed<T> {
    type Data = Bytes;
    type Error = T::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, T::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.pulse.beat();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Pulsed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        self.pulse.beat();
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Pulsed<T> {
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
    async fn silence_is_counted_from_the_last_movement() {
        let (pulse, began) = (Pulse::new(), Instant::now());
        tokio::time::sleep(Duration::from_secs(7)).await;
        pulse.beat();
        pulse.silent(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(17));
    }
}
