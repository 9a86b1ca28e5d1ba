//! Carries the nodes' marks for as long as the control plane is up.

use std::time::Duration;

use domain::Backoff;

use crate::context::Context;
use crate::reconcile::collector::MarksError;

/// When a journal that could not be read is asked for again.
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
/// The pause after an answer without news: a node that answers at once must not be asked
/// in a frenzy.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

impl Context {
    /// Carries one node's marks for ever; whatever they tell is worth a look.
    pub(crate) async fn carry_marks(&self, at: usize) {
        let Some(collector) = self.collectors.get(at) else { return };
        let wait = Duration::from_millis(self.config.marks_wait_ms);
        let mut pauses = RETRY.pauses();
        loop {
            match collector.pull(wait).await {
                Ok(pulled) => {
                    pauses.succeeded();
                    if pulled.counted.new > 0 {
                        self.signal.notify_one();
                    } else if pulled.new_numbers == 0 {
                        tokio::time::sleep(IDLE_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(node = collector.name(), %error, "marks are not counted for now");
                    // This question is held for long: it ends as soon as the daemon does.
                    if matches!(error, MarksError::Node(_)) {
                        self.fleet.silent(collector.name());
                    }
                    tokio::time::sleep(pauses.failed()).await;
                }
            }
        }
    }
}
