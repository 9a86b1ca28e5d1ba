//! What the daemon before has left.

use std::collections::BTreeMap;

use domain::{MarkKind, RunId, UnixMillis};
use sandbox::ObservedRun;
use tokio::task::spawn_blocking;
use wire::v1::node::KeptCause;

use super::Node;
use crate::quarantine::QuarantinedSandbox;
use crate::task::Origin;

const MIB: u64 = 1024 * 1024;
/// What the machine holds of a sandbox of which it holds nothing.
const ABSENT: ObservedRun = ObservedRun { runs: false, slot: None, pod: None };
/// What is wrong with a sandbox that has lost its record.
const NO_RECORD: &str = "its record.json is not there, and the machine holds something of it: put the file back from a \
                         backup and start hypercore again, or give the sandbox up with DELETE /v1/sandboxes/{id} on \
                         the node's socket, which keeps its disks";
/// What is wrong with one that is in no ledger and could not be removed.
const NOT_REMOVED: &str = "it is in no ledger, and what the machine holds of it could not be removed; the log says why: \
                           mend that and start hypercore again, or give the sandbox up with DELETE \
                           /v1/sandboxes/{id} on the node's socket, which keeps its disks";

impl Node {
    /// Takes up what the daemon before has left.
    ///
    /// # Errors
    /// When the ledger or the machine cannot be read.
    pub(crate) async fn recover(&self, last_alive: Option<UnixMillis>) -> anyhow::Result<()> {
        self.recover_volumes().await?;
        self.recover_snapshots().await?;
        self.mark_down(last_alive.unwrap_or_else(|| self.shared.clock.now())).await?;
        let ledger = self.ledger.clone();
        let found = spawn_blocking(move || ledger.load()).await??;
        let observed_runs = self.shared.runtime.observed_runs().await?;
        let at = last_alive.unwrap_or_else(|| self.shared.clock.now());
        let (lost, cut_off): (Vec<_>, Vec<_>) =
            found.unrecorded.into_iter().partition(|id| observed_runs.contains_key(id));
        let lost = lost.into_iter().map(|id| (id, NO_RECORD.to_owned()));
        for (id, cause) in found.unreadable.into_iter().chain(lost) {
            self.quarantine(id, cause, observed_runs.get(&id).copied().unwrap_or(ABSENT), at).await?;
        }
        let known = found.records.iter().map(|record| (record.id, Some(record.slot)));
        let held = self.shared.registry.quarantine.list().into_iter();
        let held = held.map(|held| (held.id, observed_runs.get(&held.id).and_then(|presence| presence.slot)));
        let known: BTreeMap<_, _> = known.chain(held).collect();
        let retention = self.shared.config.retention(self.shared.clock.now(), KeptCause::Found);
        let swept = self.shared.runtime.sweep(&known, &retention).await?;
        if swept > 0 {
            tracing::warn!(swept, "sandboxes that are not in the ledger were ended; their disks are kept");
        }
        // Their PODs' data is there: no other run may begin without it.
        for (id, presence) in self.shared.runtime.observed_runs().await? {
            if !known.contains_key(&id) {
                self.quarantine(id, NOT_REMOVED.to_owned(), presence, at).await?;
            }
        }
        for id in cut_off {
            self.clear(id, at).await?;
        }
        for record in found.records {
            let (handle, task) = self.prepare(record);
            self.shared.registry.admit(handle);
            self.spawn(task, Origin::Found { last_alive });
        }
        Ok(())
    }

    /// Removes the folder of a creation or a deletion that was cut off, unless the disk
    /// does not take its end: then the next daemon does.
    async fn clear(&self, id: RunId, at: UnixMillis) -> anyhow::Result<()> {
        if self.mark(id, MarkKind::Gone, at).await? {
            let dir = self.ledger.dir_of(id);
            spawn_blocking(move || dir.remove()).await??;
        }
        Ok(())
    }

    /// Leaves a sandbox alone of which something cannot be read. Nobody is let in to
    /// it, so nobody is billed for it.
    async fn quarantine(&self, id: RunId, cause: String, presence: ObservedRun, at: UnixMillis) -> anyhow::Result<()> {
        tracing::error!(%id, runs = presence.runs, cause, "a sandbox is quarantined");
        if self.shared.journal.standing(id) == Some(MarkKind::Ready) {
            self.mark(id, MarkKind::Unready, at).await?;
        }
        let memory = self.shared.runtime.stats(id).await.map_or(0, |stats| stats.memory_bytes);
        self.shared.registry.quarantine.hold(id, QuarantinedSandbox { presence, memory_mib: memory / MIB, cause });
        Ok(())
    }
}
