//! Volumes: a wallet's own disks on the nodes. What is asked for is written down before a node
//! is told, and each call to a node may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::NodeError;
use domain::{MAX_SNAPSHOTS, MAX_VOLUMES, PodId, SnapshotState, VolumeId, VolumeName, VolumeState, Wallet};
use futures_util::future::join_all;
use store::{
    GrowthOutcome, NewVolume, StoreError, VolumeGrowth, VolumeOutcome, VolumeQuota, VolumeRecord, VolumeRemoval,
};
use wire::fault::Code;
use wire::v1::node::VolumeSpec;

use crate::context::Context;
use crate::fleet::inventory::DiskOffer;
use crate::fleet::node::{Node, within};
use crate::pods::admit::AdmitError;

/// How often what was cut off is taken up again.
const SETTLE_PERIOD: Duration = Duration::from_secs(20);
/// Who asked for a volume is not hurried: for so long nobody else makes it.
const MAKING_MS: u64 = 60_000;

const MAKE: &str = "make the volume";
const GROW: &str = "grow the volume";
const ERASE: &str = "erase the volume";

/// A volume that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOrder {
    /// Who asks.
    pub holder: Wallet,
    /// What it is to be called by its node.
    pub id: VolumeId,
    /// What its owner calls it.
    pub name: VolumeName,
    /// Its size, in MiB.
    pub size_mib: u64,
}

/// Why nothing came of what was asked of a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The holder reaches no tier, or that cannot be read.
    #[error("the holder's tier")]
    Tier(#[from] AdmitError),
    /// The holder has a volume of this name.
    #[error("there is a volume of this name")]
    Exists(Box<VolumeRecord>),
    /// The holder has as many volumes as it may.
    #[error("a wallet has at most {MAX_VOLUMES} volumes")]
    TooMany,
    /// The holder's quota has no room for it.
    #[error("the disk quota of {allowed_mib} MiB has no room: {used_mib} MiB are in use")]
    QuotaFull {
        /// In use, in MiB.
        used_mib: u64,
        /// What the tier gives, in MiB.
        allowed_mib: u64,
    },
    /// No node has room for it now.
    #[error("no node has room for it now")]
    NoRoom,
    /// No node could hold it, even empty.
    #[error("no node could hold it, even if nothing else were on it")]
    TooLarge,
    /// The holder has no such volume.
    #[error("there is no such volume")]
    Unknown,
    /// It is being made or removed.
    #[error("the volume is {}", .0.as_str())]
    Unsettled(VolumeState),
    /// It has more than that.
    #[error("the volume has {0} MiB, and is not made smaller")]
    Shrinks(u64),
    /// The snapshot is made, put back or removed.
    #[error("the snapshot is {}", .0.as_str())]
    SnapshotBusy(SnapshotState),
    /// The holder has as many snapshots as it may.
    #[error("a wallet has at most {MAX_SNAPSHOTS} snapshots")]
    TooManySnapshots,
    /// There are so many snapshots of the volume, which cannot be put back without it.
    #[error("there are {0} snapshots of it")]
    HasSnapshots(u64),
    /// Its node could not do it, and has left it as it was.
    #[error("its node could not do it: {0}")]
    NotCopied(String),
    /// A live agent has it.
    #[error("the agent {0} has it")]
    Attached(PodId),
    /// The node that should hold it holds none.
    #[error("the node {0:?} holds it no more")]
    Lost(String),
    /// Its node does not answer, or cannot do it just now. What is written down is done later.
    #[error("its node does not answer")]
    NodeUnavailable(#[source] Option<Arc<NodeError>>),
    /// The store failed.
    #[error("the volume's record cannot be written")]
    Store(#[from] StoreError),
}

impl VolumeError {
    /// Whether its node has not said a word.
    pub(super) fn is_of_silence(&self) -> bool {
        let Self::NodeUnavailable(said) = self else { return false };
        said.as_ref().is_none_or(|error| !matches!(**error, NodeError::Refused(_)))
    }
}

impl Context {
    pub(super) async fn quota_of(&self, holder: &Wallet) -> Result<VolumeQuota, VolumeError> {
        let (_, tier) = self.tier_of(holder).await?;
        Ok(VolumeQuota { disk_mib: tier.disk.into(), volumes: MAX_VOLUMES })
    }

    /// Makes a volume on the node that has the most disk to promise.
    pub(crate) async fn create_volume(&self, order: VolumeOrder) -> Result<VolumeRecord, VolumeError> {
        let quota = self.quota_of(&order.holder).await?;
        let mut refused = None;
        for node in self.disk_offers(order.size_mib).await? {
            let new = NewVolume { volume: self.record_of(&order, node.name()), quota };
            let volume = match self.store.reserve_volume(new).await? {
                VolumeOutcome::Reserved(volume) => volume,
                // A retry of who did not hear what came of it.
                VolumeOutcome::Exists(volume) if is_same(&volume, &order) => return self.make(&volume, false).await,
                VolumeOutcome::Exists(volume) => return Err(VolumeError::Exists(Box::new(volume))),
                VolumeOutcome::TooMany => return Err(VolumeError::TooMany),
                VolumeOutcome::QuotaFull { used_mib } => {
                    return Err(VolumeError::QuotaFull { used_mib, allowed_mib: quota.disk_mib });
                }
            };
            match self.make(&volume, true).await {
                // It is other than was thought: another may have room.
                Err(error @ (VolumeError::NoRoom | VolumeError::TooLarge | VolumeError::NodeUnavailable(_))) => {
                    refused = Some(error);
                }
                done => return done,
            }
        }
        Err(refused.unwrap_or(VolumeError::NoRoom))
    }

    fn record_of(&self, order: &VolumeOrder, node: &str) -> VolumeRecord {
        VolumeRecord {
            id: order.id,
            wallet: order.holder,
            name: order.name.clone(),
            size_mib: order.size_mib,
            node: node.to_owned(),
            state: VolumeState::Creating,
            created_at: self.clock.now(),
            attached: None,
        }
    }

    /// The nodes that can promise so much disk, that with the most first.
    async fn disk_offers(&self, size_mib: u64) -> Result<Vec<Arc<dyn Node>>, VolumeError> {
        let answered = self.fleet.refresh().await;
        let offers = self.fleet.disk_offers();
        if !answered || offers.is_empty() {
            return Err(VolumeError::NodeUnavailable(None));
        }
        if offers.iter().all(|offer| offer.whole_mib < size_mib) {
            return Err(VolumeError::TooLarge);
        }
        let fits = |offer: DiskOffer| (offer.free_mib >= size_mib).then_some(offer.node);
        let nodes: Vec<_> = offers.into_iter().filter_map(fits).collect();
        if nodes.is_empty() { Err(VolumeError::NoRoom) } else { Ok(nodes) }
    }

    /// Has a volume made that is written down. Only where its node surely holds nothing of it is it forgotten: what was
    /// asked for before may be there, and nobody would pay for it or erase it any more.
    async fn make(&self, volume: &VolumeRecord, is_first: bool) -> Result<VolumeRecord, VolumeError> {
        let node = self.node_with(volume)?;
        let spec = VolumeSpec { size_mib: volume.size_mib, exists: false };
        let made = within(MAKE, self.config.node_timeout(), node.put_volume(volume.id, &spec)).await;
        match made {
            Ok(_) if self.store.volume_made(volume.id).await? => {
                self.fleet.changed(node.name());
                Ok(VolumeRecord { state: VolumeState::Ready, ..volume.clone() })
            }
            // Its owner has removed it meanwhile.
            Ok(_) => {
                let erased = within(ERASE, self.config.node_timeout(), node.erase_volume(volume.id)).await;
                if let Err(error) = erased {
                    tracing::warn!(volume = %volume.id, %error, "a volume that was removed while it was made is left");
                }
                Err(VolumeError::Unknown)
            }
            // What failed midway may be there all the same.
            Err(error) if is_definite(&error, is_first) && error.code() != Some(Code::Internal) => {
                self.store.forget_volume(volume.id).await?;
                Err(self.refused(&*node, error))
            }
            // It may be there: it is made when its node answers.
            Err(error) => Err(self.silent(&*node, error)),
        }
    }

    /// Grows a volume that no live agent has.
    pub(crate) async fn grow_volume(&self, order: VolumeGrowthOrder) -> Result<VolumeRecord, VolumeError> {
        let VolumeGrowthOrder { holder, id, size_mib } = order;
        let quota = self.quota_of(&holder).await?;
        let growth = VolumeGrowth { wallet: holder, id, size_mib, quota, now: self.clock.now() };
        let (volume, before_mib) = match self.store.reserve_growth(growth).await? {
            GrowthOutcome::Reserved { volume, before_mib } => (volume, before_mib),
            GrowthOutcome::Unknown => return Err(VolumeError::Unknown),
            GrowthOutcome::Unsettled(state) => return Err(VolumeError::Unsettled(state)),
            GrowthOutcome::Shrinks(held) => return Err(VolumeError::Shrinks(held)),
            GrowthOutcome::Attached(pod) => return Err(VolumeError::Attached(pod)),
            GrowthOutcome::QuotaFull { used_mib } => {
                return Err(VolumeError::QuotaFull { used_mib, allowed_mib: quota.disk_mib });
            }
        };
        let node = self.node_with(&volume)?;
        let spec = VolumeSpec { size_mib, exists: true };
        match within(GROW, self.config.node_timeout(), node.put_volume(id, &spec)).await {
            Ok(_) => {
                self.fleet.changed(node.name());
                Ok(volume)
            }
            // It may have grown: the same request again makes sure.
            Err(error) if error.is_ambiguous() => Err(self.silent(&*node, error)),
            Err(error) => {
                self.store.growth_refused(id, before_mib, size_mib).await?;
                Err(self.refused(&*node, error))
            }
        }
    }

    /// Removes a volume that no live agent has. Once that is written down it will be gone.
    pub(crate) async fn remove_volume(&self, holder: Wallet, id: VolumeId) -> Result<(), VolumeError> {
        match self.store.remove_volume(holder, id, self.clock.now()).await? {
            VolumeRemoval::Removing(volume) => self.erase_volume(&volume).await,
            VolumeRemoval::Attached(pod) => Err(VolumeError::Attached(pod)),
            VolumeRemoval::Unsettled(state) => Err(VolumeError::Unsettled(state)),
            VolumeRemoval::HasSnapshots(count) => Err(VolumeError::HasSnapshots(count)),
            VolumeRemoval::Unknown => Err(VolumeError::Unknown),
        }
    }

    async fn erase_volume(&self, volume: &VolumeRecord) -> Result<(), VolumeError> {
        let node = self.node_with(volume)?;
        match within(ERASE, self.config.node_timeout(), node.erase_volume(volume.id)).await {
            Ok(()) => {
                self.store.forget_volume(volume.id).await?;
                self.fleet.changed(node.name());
                Ok(())
            }
            Err(error) => Err(self.silent(&*node, error)),
        }
    }

    /// What a volume takes of its node's disk, where the node answers.
    pub(crate) async fn volume_bytes(&self, volume: &VolumeRecord) -> Option<u64> {
        let node = self.node_with(volume).ok()?;
        let asked = within("look at the volume", self.config.node_timeout(), node.volume(volume.id)).await;
        asked.ok().map(|volume| volume.bytes)
    }

    /// Takes up now and then what was cut off.
    pub(crate) async fn settle_volumes_for_ever(&self) {
        loop {
            self.settle_volumes().await;
            tokio::time::sleep(SETTLE_PERIOD).await;
        }
    }

    async fn settle_volumes(&self) {
        let unsettled = match self.store.unsettled_volumes().await {
            Ok(unsettled) => unsettled,
            Err(error) => {
                tracing::error!(%error, "the volumes that are being made or removed cannot be listed");
                return;
            }
        };
        let nodes = by_node(unsettled, |volume| &volume.node);
        join_all(nodes.into_iter().map(|volumes| self.settle_in_turn(volumes))).await;
    }

    /// Settles volumes of one node.
    async fn settle_in_turn(&self, volumes: Vec<VolumeRecord>) {
        for volume in volumes {
            let Err(error) = self.settle_volume(&volume).await else { continue };
            tracing::warn!(volume = %volume.id, node = volume.node, %error, "a volume is not settled yet");
            if error.is_of_silence() {
                return;
            }
        }
    }

    async fn settle_volume(&self, volume: &VolumeRecord) -> Result<(), VolumeError> {
        match volume.state {
            VolumeState::Removing => self.erase_volume(volume).await,
            VolumeState::Creating if self.clock.now().since(volume.created_at) > MAKING_MS => {
                self.make(volume, false).await.map(drop)
            }
            VolumeState::Creating | VolumeState::Ready | VolumeState::Copying => Ok(()),
        }
    }

    fn node_with(&self, volume: &VolumeRecord) -> Result<Arc<dyn Node>, VolumeError> {
        self.node_called(&volume.node)
    }

    pub(super) fn node_called(&self, name: &str) -> Result<Arc<dyn Node>, VolumeError> {
        self.fleet.node(name).cloned().ok_or(VolumeError::NodeUnavailable(None))
    }

    pub(super) fn silent(&self, node: &dyn Node, error: NodeError) -> VolumeError {
        tracing::warn!(node = node.name(), %error, "a node does not do what is asked of a volume");
        self.fleet.changed(node.name());
        VolumeError::NodeUnavailable(Some(Arc::new(error)))
    }

    /// What a node's refusal means for who asked.
    pub(super) fn refused(&self, node: &dyn Node, error: NodeError) -> VolumeError {
        match error.code() {
            Some(Code::NoCapacity) => {
                self.fleet.changed(node.name());
                VolumeError::NoRoom
            }
            Some(Code::ExceedsCapacity) => VolumeError::TooLarge,
            Some(Code::NoVolume | Code::NotFound) => VolumeError::Lost(node.name().to_owned()),
            Some(Code::VolumeAttached | Code::WrongState | Code::Internal) => VolumeError::NotCopied(error.to_string()),
            _ => self.silent(node, error),
        }
    }
}

/// A volume that is to have another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeGrowthOrder {
    /// Who asks.
    pub holder: Wallet,
    /// Which.
    pub id: VolumeId,
    /// The size it is to have, in MiB.
    pub size_mib: u64,
}

/// What is not settled, by the nodes: on each it is settled one after the other, and on all nodes at once. One that is
/// away is not asked for the rest, and holds up none of the others.
pub(super) fn by_node<T>(all: Vec<T>, node: impl Fn(&T) -> &str) -> Vec<Vec<T>> {
    let mut nodes = BTreeMap::<String, Vec<T>>::new();
    for one in all {
        nodes.entry(node(&one).to_owned()).or_default().push(one);
    }
    nodes.into_values().collect()
}

/// Whether a node has done nothing and will not: also where it was never reached by what was asked
/// for the first time.
pub(super) fn is_definite(error: &NodeError, is_first: bool) -> bool {
    match error {
        // What waits in line already, as its node forgets that it does when it begins anew, is asked for again.
        NodeError::Refused(fault) if fault.code == Code::RateLimited => is_first,
        NodeError::Refused(fault) => fault.code != Code::ShuttingDown,
        NodeError::NotConnected { .. } => is_first,
        NodeError::ConnectionLost { .. } | NodeError::TimedOut { .. } | NodeError::Protocol { .. } => false,
    }
}

/// Whether a volume that is being made is the one that is asked for.
fn is_same(volume: &VolumeRecord, order: &VolumeOrder) -> bool {
    volume.state == VolumeState::Creating && volume.size_mib == order.size_mib
}
