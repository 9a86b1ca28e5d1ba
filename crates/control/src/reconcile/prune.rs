//! Has the store forget what is old.

use std::time::Duration;

use crate::context::Context;

/// Batches in one round at most; the next round goes on.
const MAX_BATCHES: u32 = 1000;

impl Context {
    pub(crate) async fn prune_for_ever(&self) {
        loop {
            self.prune().await;
            tokio::time::sleep(Duration::from_secs(self.config.prune_period_s)).await;
        }
    }

    /// Forgets until nothing old is left, in batches between which others write.
    async fn prune(&self) {
        for _ in 0..MAX_BATCHES {
            match self.store.prune(self.clock.now()).await {
                Ok(pruned) => {
                    metrics::counter!("palatine_pruned_total", "what" => "stamps").increment(pruned.spent_signatures);
                    metrics::counter!("palatine_pruned_total", "what" => "keys").increment(pruned.keys);
                    metrics::counter!("palatine_pruned_total", "what" => "runs").increment(pruned.runs);
                    metrics::counter!("palatine_pruned_total", "what" => "api_keys").increment(pruned.api_keys);
                    if !pruned.more {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "what is old cannot be forgotten");
                    return;
                }
            }
        }
    }
}
