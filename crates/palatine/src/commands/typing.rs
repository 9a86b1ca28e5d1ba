//! What is typed into a shell on its way there: in order, one call at a time, and as much in
//! one as has come meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use client::{ClientError, ProcessHandle};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use wire::fault::Code;
use wire::process::RpcCode;

/// Bytes that wait to be sent; what is typed beyond them is left out, and told.
const MAX_UNSENT: usize = 1024 * 1024;
/// Bytes of one call.
const PIECE: usize = 16 * 1024;
/// The pause before what a gateway that is asked too often has refused is sent again, and how often that is done.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
const BUSY_TIMES: usize = 50;

/// What is typed over one connection.
pub(crate) struct Typing {
    outbox: Arc<Outbox>,
    troubles: mpsc::Receiver<String>,
    _sending: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Outbox {
    state: Mutex<Unsent>,
    filled: Notify,
}

/// Keys that wait, and how many found no room. Pure.
#[derive(Debug, Default)]
struct Unsent {
    keys: Vec<u8>,
    left_out: usize,
}

impl Unsent {
    /// Adds what fits; nothing after the first key that did not, until there is room for all.
    fn push(&mut self, keys: &[u8]) {
        if self.keys.len() + keys.len() > MAX_UNSENT {
            self.left_out += keys.len();
        } else {
            self.keys.extend_from_slice(keys);
        }
    }

    fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, Unsent> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Typing {
    pub(crate) fn begin(shell: ProcessHandle) -> Self {
        let outbox = Arc::<Outbox>::default();
        let (told, troubles) = mpsc::channel(1);
        let sending = tokio::spawn(send(shell, Arc::clone(&outbox), told));
        Self { outbox, troubles, _sending: AbortOnDropHandle::new(sending) }
    }

    /// Hands keys on, at once or as soon as those before them are there.
    pub(crate) fn type_in(&self, keys: &[u8]) {
        self.outbox.state().push(keys);
        self.outbox.filled.notify_one();
    }

    /// Comes with a sentence when something that was typed may not have arrived.
    pub(crate) async fn trouble(&mut self) -> String {
        match self.troubles.recv().await {
            Some(trouble) => trouble,
            None => std::future::pending().await,
        }
    }
}

async fn send(shell: ProcessHandle, outbox: Arc<Outbox>, told: mpsc::Sender<String>) {
    loop {
        outbox.filled.notified().await;
        let Unsent { keys, left_out } = outbox.state().take();
        let trouble = match deliver(&shell, &keys).await {
            Ok(()) if left_out == 0 => continue,
            Ok(()) => format!("{left_out} bytes were typed faster than the shell reads, and are left out"),
            // It has ended, which its output tells.
            Err(ClientError::Rpc(error)) if matches!(error.code, RpcCode::NotFound | RpcCode::FailedPrecondition) => {
                return;
            }
            Err(error) => {
                let why = anyhow::Error::from(error);
                format!("what was typed last may not have arrived: {why:#}")
            }
        };
        if told.send(trouble).await.is_err() {
            return;
        }
    }
}

/// Sends keys, a call at a time; once more only where they have certainly not arrived.
async fn deliver(shell: &ProcessHandle, keys: &[u8]) -> Result<(), ClientError> {
    let pauses = ConstantBuilder::default().with_delay(BUSY_PAUSE).with_max_times(BUSY_TIMES);
    let is_busy = |error: &ClientError| error.code() == Some(Code::RateLimited) || error.guest_status() == Some(429);
    for piece in keys.chunks(PIECE) {
        (|| shell.send_keys(piece)).retry(pauses).when(is_busy).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_too_fast_is_left_out_whole_and_counted() {
        let mut unsent = Unsent::default();
        unsent.push(&vec![b'x'; MAX_UNSENT - 1]);
        unsent.push(b"no");
        unsent.push(b"y");
        let taken = unsent.take();
        assert_eq!((taken.keys.len(), taken.keys.last(), taken.left_out), (MAX_UNSENT, Some(&b'y'), 2));
        assert_eq!((unsent.keys.len(), unsent.left_out), (0, 0));
    }
}
