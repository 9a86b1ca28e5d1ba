//! A guest that runs, and what listens to it.

use std::sync::Arc;
use std::time::Duration;

use domain::RunId;
use sandbox::{Guest, Runtime};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::guest::{PodClient, RateLimiter, follow};
use crate::logs::{AgentLog, RotatedLog};

/// Bytes of the console read at once.
const PIECE: usize = 2 * 1024;
/// Bytes per second of a console that are written down; a guest that prints more waits.
const BYTES_PER_SECOND: u32 = 256 * 1024;
/// Bytes that may come at once: a boot with all its messages.
const BURST_BYTES: u32 = 1024 * 1024;
/// Pause before a console is opened again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long what the guest said last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A guest that runs. Dropping it lets the guest be.
pub(super) struct RunningGuest {
    pub(super) guest: Guest,
    _console: AbortOnDropHandle<()>,
    follower: Option<AbortOnDropHandle<()>>,
}

impl RunningGuest {
    pub(super) fn new(guest: Guest, runtime: Arc<dyn Runtime>, id: RunId, console: Arc<RotatedLog>) -> Self {
        let console = AbortOnDropHandle::new(tokio::spawn(pump(runtime, id, console)));
        Self { guest, _console: console, follower: None }
    }

    /// Begins to follow the agent's output.
    pub(super) fn follow(&mut self, pod: PodClient, log: Arc<Mutex<AgentLog>>, boot: u32) {
        if self.follower.is_none() {
            self.follower = Some(AbortOnDropHandle::new(tokio::spawn(follow(pod, log, boot))));
        }
    }

    /// Whether the guest has its identity, and an agent that may want to say goodbye.
    pub(super) const fn is_told(&self) -> bool {
        self.follower.is_some()
    }

    /// Waits for the guest's end.
    pub(super) async fn end(&mut self) -> String {
        let words = self.guest.exit.wait().await;
        sleep(LAST_WORDS).await;
        words
    }
}

/// Reads the console as long as it lives: a guest waits for us only if it babbles.
async fn pump(runtime: Arc<dyn Runtime>, id: RunId, log: Arc<RotatedLog>) {
    let (mut piece, mut limiter) = (vec![0; PIECE], RateLimiter::new(BYTES_PER_SECOND, BURST_BYTES));
    loop {
        if let Ok(mut console) = runtime.console(id).await {
            while let Ok(read @ 1..) = console.read(&mut piece).await {
                if let Err(error) = log.append(&piece[..read]) {
                    tracing::debug!(%error, "a piece of the console is lost");
                }
                let bytes = u32::try_from(read).unwrap_or(u32::MAX);
                sleep(limiter.take(bytes, Instant::now())).await;
            }
        }
        sleep(PAUSE).await;
    }
}
