//! How a driver says no, and what went wrong when it tried.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use domain::{NodeShortage, RunId};

/// What was asked of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the calls of Runtime")]
pub enum RuntimeOperation {
    Create,
    Adopt,
    Console,
    Connect,
    Stats,
    Condition,
    Resume,
    Stop,
}

impl fmt::Display for RuntimeOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Console => "open the console of",
            Self::Connect => "connect to",
            Self::Stats => "measure",
            Self::Condition => "look at",
            Self::Resume => "resume",
            Self::Stop => "stop",
        })
    }
}

/// Why a driver will not, although it could try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverRefusal {
    /// `create` of what runs.
    #[error("it runs already")]
    Runs,
    /// Something that needs a running guest.
    #[error("it does not run here")]
    NotRunning,
    /// The disks would fill the machine.
    #[error("{free_mib} MiB are free in {path} and {least_mib} MiB must stay free")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What must stay free.
        least_mib: u64,
    },
    /// The image's disk is not there.
    #[error("the image's disk {0} is not there")]
    NoBase(PathBuf),
    /// More volumes than a guest has places for.
    #[error("a guest has at most {most} volumes, not {asked}")]
    TooManyVolumes {
        /// How many were asked for.
        asked: usize,
        /// How many there may be.
        most: usize,
    },
    /// A container is asked for, with volumes.
    #[error("a guest with volumes has to be a machine: no host mounts what a machine wrote")]
    VolumesNeedMachine,
    /// The slot has no address.
    #[error("slot {slot} is not one of this node's {slots}")]
    NoSlot {
        /// The slot asked for.
        slot: u16,
        /// How many there are.
        slots: u16,
    },
}

/// The steps of `create`, by which a failure says what the node lacks.
pub(crate) mod step {
    pub(crate) const IMAGE: &str = "open its image's disk";
    pub(crate) const DISKS: &str = "make its disks";
    pub(crate) const NETWORK: &str = "make its network";
    pub(crate) const VMM: &str = "start the VMM";
    /// Of any operation on a VMM that runs.
    pub(crate) const REACH: &str = "reach the VMM";
}

/// What went wrong below an operation.
#[derive(Debug, thiserror::Error)]
pub enum DriverFailure {
    /// The system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The limits of a guest could not be set.
    #[error("make its cgroup")]
    Cgroup(#[source] io::Error),
    /// A program of the host said no.
    #[error("{program} said: {said}")]
    Command {
        /// Which.
        program: &'static str,
        /// Its first words on standard error.
        said: String,
    },
    /// The process that becomes the VMM could not be started.
    #[error("start its process")]
    Process(#[source] io::Error),
    /// The VMM ended before its guest ran.
    #[error("its guest never ran: {0}")]
    Vmm(String),
    /// The VMM's control socket answered something else than was hoped for.
    #[error("the VMM answered: {0}")]
    Answer(String),
    /// It took too long.
    #[error("not done within {0:?}")]
    Deadline(Duration),
    /// The machine lacks something.
    #[error("{0}")]
    Missing(String),
    /// Another node of this machine has it.
    #[error("{0}")]
    Taken(String),
}

impl From<rustix::io::Errno> for DriverFailure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// An operation on one sandbox that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The driver will not.
    #[error("{operation} sandbox {id}: {refusal}")]
    Refused {
        /// What was asked.
        operation: RuntimeOperation,
        /// Of which sandbox.
        id: RunId,
        /// Why not.
        refusal: DriverRefusal,
    },
    /// The driver tried.
    #[error("{operation} sandbox {id}: {step}")]
    Failed {
        /// What was asked.
        operation: RuntimeOperation,
        /// Of which sandbox.
        id: RunId,
        /// How far it came.
        step: &'static str,
        /// What stood in the way.
        source: DriverFailure,
    },
}

impl DriverFailure {
    /// Whether a file could not be written for want of room. The kernel says the same
    /// where it has no more cgroups, namespaces or rules to give: that is no disk.
    fn is_of_a_full_disk(&self) -> bool {
        match self {
            Self::Io(error) => is_full(error),
            Self::Cgroup(_)
            | Self::Command { .. }
            | Self::Process(_)
            | Self::Vmm(_)
            | Self::Answer(_)
            | Self::Deadline(_)
            | Self::Missing(_)
            | Self::Taken(_) => false,
        }
    }
}

/// Whether an error of the system is for want of room on a disk.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl RuntimeError {
    /// What the node lacks, where a sandbox could not be created.
    #[must_use]
    pub fn wait_reason(&self) -> NodeShortage {
        match self {
            Self::Refused { refusal, .. } => match refusal {
                DriverRefusal::DiskFull { .. } => NodeShortage::Disk,
                DriverRefusal::NoBase(_) => NodeShortage::Image,
                DriverRefusal::Runs
                | DriverRefusal::NotRunning
                | DriverRefusal::TooManyVolumes { .. }
                | DriverRefusal::VolumesNeedMachine
                | DriverRefusal::NoSlot { .. } => NodeShortage::Host,
            },
            Self::Failed { source: DriverFailure::Cgroup(_), .. } => NodeShortage::Cgroup,
            Self::Failed { step, source, .. } => match *step {
                step::IMAGE => NodeShortage::Image,
                step::DISKS => NodeShortage::Disk,
                step::NETWORK => NodeShortage::Network,
                _ if source.is_of_a_full_disk() => NodeShortage::Disk,
                step::VMM | step::REACH => NodeShortage::Vmm,
                _ => NodeShortage::Host,
            },
        }
    }

    /// The refusal, if it is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&DriverRefusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Failed { .. } => None,
        }
    }
}

/// A driver that cannot start, sweep or close.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct DriverError {
    /// How far it came.
    pub step: &'static str,
    /// What stood in the way.
    pub source: DriverFailure,
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    /// For a step of the driver itself.
    fn step(self, step: &'static str) -> Result<T, DriverError>;
    /// For a step of an operation on one sandbox.
    fn during(self, operation: RuntimeOperation, id: RunId, step: &'static str) -> Result<T, RuntimeError>;
}

impl<T, E: Into<DriverFailure>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, DriverError> {
        self.map_err(|source| DriverError { step, source: source.into() })
    }

    fn during(self, operation: RuntimeOperation, id: RunId, step: &'static str) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Failed { operation, id, step, source: source.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_1_a_failed_creation_says_what_the_node_lacks() {
        let failed = |step, source| RuntimeError::Failed {
            operation: RuntimeOperation::Create,
            id: RunId::from_bits(1),
            step,
            source,
        };
        let missing = || DriverFailure::Missing("it".to_owned());
        let full = || DriverFailure::Io(io::ErrorKind::StorageFull.into());
        let nft = |said: &str| DriverFailure::Command { program: "nft", said: said.to_owned() };
        let cases = [
            (failed(step::IMAGE, DriverFailure::Io(io::ErrorKind::PermissionDenied.into())), NodeShortage::Image),
            (failed(step::DISKS, missing()), NodeShortage::Disk),
            (failed(step::DISKS, full()), NodeShortage::Disk),
            (failed(step::NETWORK, nft("Operation not supported")), NodeShortage::Network),
            // No more rules, namespaces, cgroups and processes: none of it is a disk.
            (failed(step::NETWORK, nft("write: No space left on device")), NodeShortage::Network),
            (failed(step::NETWORK, full()), NodeShortage::Network),
            (failed(step::VMM, DriverFailure::Cgroup(io::ErrorKind::StorageFull.into())), NodeShortage::Cgroup),
            (failed(step::VMM, DriverFailure::Process(io::ErrorKind::StorageFull.into())), NodeShortage::Vmm),
            (failed(step::VMM, DriverFailure::Vmm("cannot allocate memory".to_owned())), NodeShortage::Vmm),
            (failed(step::VMM, DriverFailure::Io(io::ErrorKind::NotFound.into())), NodeShortage::Vmm),
            // Its sockets are files beside its disks.
            (failed(step::VMM, full()), NodeShortage::Disk),
            (failed("make its folder", full()), NodeShortage::Disk),
            (failed(step::REACH, DriverFailure::Deadline(Duration::from_secs(5))), NodeShortage::Vmm),
            (failed("look at the VMM's process", missing()), NodeShortage::Host),
        ];
        for (error, wait_reason) in cases {
            assert_eq!(error.wait_reason(), wait_reason, "{error}");
        }
    }
}
