//! The driver for containers, where a machine is not to be had at speed.
//!
//! A container shares the node's kernel. So it is offered only where the operator names it, and
//! its name is in every answer. It is made by a containerd of our own (`daemon`), over its gRPC
//! API (`client`), through runc, crun or gVisor's runsc. Its root is mapped to a plain user of its
//! slot's own range, whose are its users' and its network's namespaces too (`namespaces`); it has no
//! privileges to gain, a list of system calls (`filter`), and a root put together by the host
//! (`mounts`): the image's files, and over them its layer.
//!
//! containerd takes no part in images: whose layers an image has, and what may be in them, is
//! judged in one place, the image store, whose code unpacks beneath the root that it was given
//! and checks every digest. containerd's own import would be a second reader of strangers' bytes.
//!
//! Its layer and its `/data` are file systems in files of a fixed size, as those of machines are:
//! that bounds them on every host, where quotas need a file system that was made for them. The
//! host mounts only what it has made itself and no machine of a tenant was ever given (`disk`):
//! a container writes through the file system, and never to the blocks under it.

mod client;
mod console;
mod daemon;
mod driver;
pub(crate) mod facts;
mod filter;
mod loops;
mod mounts;
mod namespaces;
mod ops;
mod protocol;
mod spec;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use domain::RuntimeKind;
pub use driver::Container;
pub use facts::ContainerFacts;
use wire::v1::node::RuntimeName;

/// What makes the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OciRuntime {
    /// gVisor's runsc.
    Gvisor,
    /// runc.
    Runc,
    /// crun.
    Crun,
}

impl OciRuntime {
    /// Of a kind of isolation; none of one that makes no containers.
    #[must_use]
    pub const fn of(kind: RuntimeKind) -> Option<Self> {
        match kind {
            RuntimeKind::ContainerGvisor => Some(Self::Gvisor),
            RuntimeKind::ContainerRunc => Some(Self::Runc),
            RuntimeKind::ContainerCrun => Some(Self::Crun),
            RuntimeKind::Qemu => None,
        }
    }

    pub(crate) const fn name(self) -> RuntimeName {
        match self {
            Self::Gvisor => RuntimeName::ContainerGvisor,
            Self::Runc => RuntimeName::ContainerRunc,
            Self::Crun => RuntimeName::ContainerCrun,
        }
    }

    /// The program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Gvisor => "runsc",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// Whose kernel its containers have.
    pub(crate) const fn kernel(self) -> &'static str {
        match self {
            Self::Gvisor => "gVisor",
            Self::Runc | Self::Crun => "the node",
        }
    }

    /// Whether its containers join namespaces that were made for them: runsc makes its own.
    pub(crate) const fn joins(self) -> bool {
        match self {
            Self::Gvisor => false,
            Self::Runc | Self::Crun => true,
        }
    }

    /// Memory, in MiB, that what makes it takes of its own cgroup, besides what is the
    /// container's: gVisor's kernel, and the process that opens files for it.
    pub(crate) const fn own_mib(self) -> u64 {
        match self {
            Self::Gvisor => 128,
            Self::Runc | Self::Crun => 0,
        }
    }
}

/// What the driver is told by its node.
#[derive(Clone, Debug)]
pub struct ContainerSettings {
    /// Which are offered; the first is the default.
    pub runtimes: Vec<OciRuntime>,
    /// gVisor's program, where it is not found by its name.
    pub runsc: Option<PathBuf>,
    /// `pod`, which is every container's first process.
    pub pod: PathBuf,
    /// The user of the node who is root in the container of slot 0; each slot has the next
    /// [`ContainerSettings::USERS`].
    pub first_uid: u32,
    /// Size of a container's writable layer.
    pub layer_mib: u64,
    /// Size of its `/data`.
    pub data_mib: u64,
    /// MiB per second that each core may read from the disk, and as many that it may write; 0 is
    /// no limit.
    pub disk_mib_per_second: u64,
    /// Disk space that must stay free on the host.
    pub least_free_mib: u64,
}

impl ContainerSettings {
    /// Users of a container.
    pub const USERS: u32 = 65_536;
    /// Slots that may be containers.
    pub const SLOTS: u16 = 4_096;

    /// The users of the containers of so many slots, from this one on.
    #[must_use]
    pub fn uids(first: u32, slots: u16) -> RangeInclusive<u32> {
        let all = u32::from(slots.clamp(1, Self::SLOTS)) * Self::USERS;
        first..=first.saturating_add(all - 1)
    }
}
