//! The rules of the product, pure: no IO, no clock, no randomness.
//! [`SystemClock`] is here for the edges, beside its trait: no rule reads it.
//!
//! Everything that decides is here and can be tried without a database, a
//! network or a virtual machine; everything that acts is in the other crates.

mod agent;
mod backoff;
mod bounds;
mod client;
mod content;
mod disks;
pub mod evm;
mod id;
mod image;
mod key;
mod metering;
mod money;
pub mod payment;
mod placement;
mod pod;
pub mod relay;
mod runtime;
mod slot;
mod snapshot;
mod text;
mod tier;
mod time;
pub mod vault;
mod volume;

pub use agent::{
    EndReason, Event, FailReason, InvalidAgentTransition, NodeShortage, State, StateName, StepEffect, StopReason, step,
};
pub use alloy_primitives::{Address, B256, Bytes, Signature, U256};
pub use backoff::{Backoff, BackoffSeries};
pub use bounds::{BoundedSetting, OutOfBounds, check_bounds};
pub use client::ClientAddr;
pub use content::{ContentCall, OwnedDisk};
pub use disks::{DiskChange, DiskLevels, DiskMark, MeteredDisk, byte_hours, disk_changes, disk_used};
pub use id::{Generation, IdError, ImageDigest, RunId, Wallet};
pub use image::{ArchiveSum, HeldImageName, ImageId, ImageRef, ImageRefError};
pub use key::{KeyForm, KeyId, KeyIdError, KeyScope};
pub use metering::{Mark, MarkKind, Meter, Usage};
pub use money::{MoneyError, Usdc};
pub use placement::{NodeView, PlacementError, ResourceRequest, place};
pub use pod::{PodId, PodIdError};
pub use runtime::{RuntimeKind, RuntimeKinds};
pub use slot::{AllowanceExceeded, HolderAllowance, TakenSlot, free_slot};
pub use snapshot::{MAX_SNAPSHOTS, SnapshotId, SnapshotIdError, SnapshotState};
pub use tier::{Tier, TierError, TierName, Tiers, TokenAmount};
pub use time::{Clock, SteadyInstant, SystemClock, UnixMillis};
pub use volume::{
    DEFAULT_VOLUME_MIB, MAX_MOUNTS, MAX_VOLUME_MIB, MAX_VOLUMES, MIN_VOLUME_MIB, MountPath, MountPathError,
    MountsError, VolumeId, VolumeIdError, VolumeMount, VolumeName, VolumeNameError, VolumeState, check_mounts,
};
