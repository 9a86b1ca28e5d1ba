//! What the drivers of a node share: its right to its name, its cgroups, the guests'
//! networks, and the disks that are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use domain::{PodId, RunId};
use tokio::task::spawn_blocking;
use wire::v1::node::{KeptDisk, Retention};

use crate::cgroup::Cgroups;
use crate::error::Step;
use crate::kept::{self, KeptDisks};
use crate::network::{self, HostNetwork, Namespace, NamespaceSockets, NetworkReservation};
use crate::runtime::DiskUsage;
use crate::{DriverError, DriverFailure, files};

/// The folders of the runs that have disks, under the node's state: one for the guests that are
/// machines, one for those that are containers.
pub(crate) const GUESTS: &str = "guests";
pub(crate) const CONTAINERS: &str = "containers";

/// The machine, as far as it is this node's. Held until the last driver is gone.
pub struct NodeMachine {
    pub(crate) state: PathBuf,
    pub(crate) network: network::Config,
    pub(crate) cgroups: Cgroups,
    pub(crate) claim: NetworkReservation,
    pub(crate) host: HostNetwork,
    pub(crate) dialer: NamespaceSockets,
}

impl NodeMachine {
    /// Claims the node's name, its range, the users from `first_uid` on and those of the
    /// containers that it may have.
    ///
    /// # Errors
    /// Names what the machine lacks, or who has it.
    pub async fn claim(
        state: &Path,
        network: &network::Config,
        first_uid: u32,
        container_uids: Option<RangeInclusive<u32>>,
    ) -> Result<Self, DriverError> {
        let cgroups = Cgroups::detect(network.name.as_str()).step("find the cgroups")?;
        let claim = claim(state, network, first_uid, container_uids, &cgroups).await;
        let claim = claim.step("claim the node's name and range")?;
        let host = HostNetwork::new(network.clone());
        let dialer = NamespaceSockets::start().step("start the dialer")?;
        Ok(Self { state: state.to_owned(), network: network.clone(), cgroups, claim, host, dialer })
    }

    /// Clears away what the name's last node has left, and opens the host's network.
    /// Repeats itself without harm.
    pub(crate) fn open(&self) -> Result<(), DriverError> {
        if self.claim.inherited {
            self.clear_inherited().step("clear away what the name's last node has left")?;
        }
        self.host.open().step("open the host's network")
    }

    /// The name was another node's, and nothing runs under it any more.
    fn clear_inherited(&self) -> Result<(), DriverFailure> {
        if self.cgroups.ids()?.iter().any(|id| self.cgroups.pids(id).is_ok_and(|pids| !pids.is_empty())) {
            // Another driver of this node has begun already.
            return Ok(());
        }
        for id in self.host.namespaces()? {
            self.host.remove_namespace(&id)?;
        }
        for slot in self.host.links()? {
            // Goes with its namespace, though not at once.
            if let Err(error) = self.host.remove_link(&slot) {
                tracing::debug!(%error, slot, "a link of the name's last node is gone already");
            }
        }
        for id in self.cgroups.ids()? {
            self.cgroups.remove(&id)?;
        }
        Ok(())
    }

    pub(crate) fn namespace(&self, id: RunId) -> Namespace<'_> {
        Namespace::new(&self.network, self.claim.mark(), id)
    }

    pub(crate) fn kept(&self) -> KeptDisks {
        KeptDisks::of(&self.state)
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.state.join("templates")
    }

    /// The runs that have a folder of this name, and so anything on the machine. It is made
    /// first and removed last: what has none is not this node's.
    pub(crate) fn found(&self, folder: &str) -> Result<BTreeSet<RunId>, DriverError> {
        let found = files::names(&self.state.join(folder)).step("list the guests' folders")?;
        Ok(found.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Refuses to act on a run that has its disks in the other driver's folder: that one alone
    /// knows what runs there, and what is to be kept of it.
    pub(crate) fn must_be_of(&self, folder: &str, id: RunId) -> Result<(), DriverFailure> {
        let name = id.to_string();
        if self.state.join(folder).join(&name).try_exists()? {
            return Ok(());
        }
        for (other, kinds) in [(GUESTS, "qemu"), (CONTAINERS, "container-runc or container-crun")] {
            let place = self.state.join(other).join(&name);
            if other != folder && place.try_exists()? {
                return Err(not_named(&format!("it has its disks in {}", place.display()), kinds));
            }
        }
        Ok(())
    }

    /// Whether a process is of any sandbox of this node.
    pub(crate) fn runs_another(&self, pid: u32) -> io::Result<bool> {
        for name in self.cgroups.ids()? {
            if self.cgroups.pids(&name)?.contains(&pid) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the links of empty slots. Where a slot is not known, any link may be
    /// the one that is used: then none is removed.
    pub(crate) fn sweep_links(&self, known: &BTreeMap<RunId, Option<u16>>) -> Result<(), DriverError> {
        let mut seated = BTreeSet::new();
        let mut unseen = false;
        for (id, slot) in known {
            match slot {
                Some(slot) => {
                    seated.insert(*slot);
                }
                None => unseen |= !self.cgroups.pids(&id.to_string()).step("read a guest's cgroup")?.is_empty(),
            }
        }
        if unseen {
            tracing::warn!("links that nobody knows are left: which of them a guest uses cannot be seen");
            return Ok(());
        }
        for slot in self.host.slots(self.claim.mark()).step("list the guests' links")? {
            if !seated.contains(&slot) {
                swept(slot, self.host.remove_link(&slot.to_string()));
            }
        }
        Ok(())
    }

    pub(crate) fn tidy_kept(&self, retention: &Retention) -> Result<(), DriverError> {
        self.kept().tidy(retention).step("look at the disks that are kept")
    }

    pub(crate) fn disk_usage(&self) -> Result<DiskUsage, DriverError> {
        let stat = rustix::fs::statvfs(&self.state).step("look at the free space")?;
        let mut guests = 0;
        for folder in [GUESTS, CONTAINERS] {
            let dir = self.state.join(folder);
            for name in files::names(&dir).step("list the guests' folders")? {
                guests += kept::allocated(&dir.join(name)).step("measure a guest's disks")?;
            }
        }
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskUsage { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail), guests })
    }

    pub(crate) fn list_kept(&self, of: Option<PodId>) -> Result<Vec<KeptDisk>, DriverError> {
        self.kept().list(of).step("list the disks that are kept")
    }

    pub(crate) fn kept_data(&self, pod: PodId) -> Result<Option<u64>, DriverError> {
        let newest = self.kept().newest_data(pod).step("look for the data that is kept of a POD")?;
        Ok(newest.map(|data| data.bytes))
    }

    pub(crate) fn is_kept_of_machine(&self, pod: PodId) -> Result<bool, DriverError> {
        let newest = self.kept().newest_data(pod).step("look for the data that is kept of a POD")?;
        Ok(newest.is_some_and(|data| !data.host_made))
    }

    pub(crate) fn erase(&self, name: &str) -> Result<(), DriverError> {
        self.kept().erase(name).step("erase disks that were kept")
    }

    /// Gives the machine back what belongs to no sandbox, unless guests still run.
    pub(crate) fn close(&self) -> Result<(), DriverError> {
        let running = self.cgroups.ids().step("list the guests")?;
        if !running.is_empty() {
            return Ok(());
        }
        self.host.close().step("close the host's network")?;
        self.claim.forget().step("give the node's name back")
    }
}

async fn claim(
    state: &Path,
    network: &network::Config,
    first_uid: u32,
    container_uids: Option<RangeInclusive<u32>>,
    cgroups: &Cgroups,
) -> Result<NetworkReservation, DriverFailure> {
    let (state, network, cgroups) = (state.to_owned(), network.clone(), cgroups.clone());
    let taken = spawn_blocking(move || {
        NetworkReservation::take(&network, &state, first_uid, container_uids, |name| cgroups.running(name))
    });
    taken.await.map_err(io::Error::other)?
}

/// Why nothing is done to a run of a kind that the node was told to offer no more.
pub(crate) fn not_named(why: &str, kinds: &str) -> DriverFailure {
    DriverFailure::Missing(format!(
        "{why}, and node.runtimes does not name {kinds} any more: name it again, at least until its runs have ended"
    ))
}

/// Whether what nobody knows is gone. What cannot be removed stays until the next
/// start, and keeps no node from serving.
pub(crate) fn swept(what: impl std::fmt::Display, removed: Result<(), DriverFailure>) -> bool {
    if let Err(error) = &removed {
        tracing::error!(
            %what, error = error as &dyn std::error::Error,
            "what nobody knows cannot be removed: it stays until the next start, or is removed by hand"
        );
    }
    removed.is_ok()
}
