//! The machines of a node in which holders' images are built (`node/builder.rs`): to end all of them.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long whoever ends all of them waits for that.
const END: Duration = Duration::from_secs(15);

/// The builders of a node.
#[derive(Default)]
pub(crate) struct Builders {
    pub(crate) end: CancellationToken,
    pub(crate) live: TaskTracker,
}

impl Builders {
    /// Ends all of them, with the daemon, and waits for that.
    pub(crate) async fn end_all(&self) {
        self.end.cancel();
        self.live.close();
        if timeout(END, self.live.wait()).await.is_err() {
            tracing::error!("a build's machine does not end");
        }
    }
}
