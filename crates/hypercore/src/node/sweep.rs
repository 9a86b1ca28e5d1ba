//! Images that were forgotten, and that nothing runs from.

use super::Node;

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
        let _alone = self.shared.image_use.write().await;
        if !registry.quarantine.list().is_empty() {
            return;
        }
        let in_use = registry.all().iter().map(|handle| handle.desired.image).collect();
        match uploads.sweep(in_use).await {
            Ok(0) => {}
            Ok(freed) => tracing::info!(freed_mib = freed / (1024 * 1024), "forgotten images were removed"),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "forgotten images cannot be removed");
            }
        }
    }
}
