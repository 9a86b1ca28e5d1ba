//! Images that were forgotten, and that nothing runs from.

use tokio::task::spawn_blocking;

use super::Node;
use crate::uploads::UploadError;

impl Node {
    /// Has forgotten images looked for.
    pub(crate) fn sweep_soon(&self) {
        self.forgotten.notify_one();
    }

    /// Removes the images that were forgotten and that no run here has. Which one a quarantined
    /// run has nobody can tell: then none goes.
    pub(crate) async fn sweep(&self) {
        let Some(uploads) = &self.shared.uploads else { return };
        let registry = &self.shared.registry;
        let alone = self.shared.image_use.write().await;
        if !registry.quarantine.list().is_empty() {
            return;
        }
        let in_use = registry.all().iter().map(|handle| handle.desired.image).collect();
        let swept = uploads.sweep(in_use).await;
        // Whoever wants an image does not wait until the last file of another is gone.
        drop(alone);
        let freed = match swept {
            Ok(removed) => spawn_blocking(move || removed.finish().map_err(UploadError::from)).await,
            Err(error) => Ok(Err(error)),
        };
        match freed.unwrap_or_else(|error| Err(UploadError::Disk(std::io::Error::other(error)))) {
            Ok(0) => {}
            Ok(freed) => tracing::info!(freed_mib = freed / (1024 * 1024), "forgotten images were removed"),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "forgotten images cannot be removed");
            }
        }
    }
}
