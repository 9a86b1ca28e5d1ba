//! What is over is taken from its node: removed images, replaced ones, uploads whose time has
//! passed. Rows go when their node has nothing of them any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control::NodeError;
use store::{OverImage, StoreError};

use crate::state::Gateway;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(30);

/// Looks for what is over, now and then and when something is.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    loop {
        tokio::select! {
            () = gateway.images_over.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
            () = gateway.draining.cancelled() => return,
        }
        if let Err(error) = gateway.sweep_images().await {
            tracing::warn!(%error, "images that are over cannot be looked for");
        }
    }
}

impl Gateway {
    async fn sweep_images(&self) -> Result<(), StoreError> {
        let mut away = BTreeSet::new();
        for over in self.parts.store.images_over(self.now()).await? {
            if self.is_off_its_node(&over, &mut away).await {
                self.parts.store.forget_image(over.id).await?;
            }
        }
        Ok(())
    }

    /// Whether its node has nothing of it any more, or has to keep it for another tag. A node that
    /// does not answer is not asked again in the same look.
    async fn is_off_its_node(&self, over: &OverImage, away: &mut BTreeSet<String>) -> bool {
        if over.shared {
            return true;
        }
        if away.contains(&over.node) {
            return false;
        }
        let Some(node) = self.parts.control.fleet().node(&over.node) else {
            tracing::warn!(node = over.node, "the node of an image that is over is not configured: it stays there");
            return true;
        };
        match node.images().forget(over.pin).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(node = over.node, %error, "an image that is over is still on its node; trying again");
                // One of which an image is being made just now is refused, and no other.
                if !matches!(error, NodeError::Refused(_)) {
                    away.insert(over.node.clone());
                }
                false
            }
        }
    }
}
