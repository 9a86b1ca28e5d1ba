//! What isolates an agent: the [`Runtime`] trait, its drivers, guest networks
//! and disks.
//!
//! | module | holds |
//! |---|---|
//! | [`runtime`] | the trait, in the order its calls come, and what passes through it |
//! | [`drivers`] | who implements it: `qemu`, one `microvm` for each sandbox, on KVM or emulated; `container`, a container of containerd; `several` of them on one node |
//! | `facts` | what the ledger holds of a guest, driver by driver |
//! | [`network`] | a network namespace for each guest, and the rules of its way out |
//! | [`process`] | processes by id and start time, so that a reused id is never taken for them |
//! | `machine` | what the drivers of one node share |
//! | `disk`, `cgroup`, `command` | the drivers' tools |
//! | `owner`, `kept` | whose disks a folder holds; disks that outlived their run |
//! | `volumes`, `snapshots` | disks that outlive every run, and copies of them |
//! | `conformance` (feature) | the suite that every driver runs |
//! | `fake` (feature) | a runtime without guests, for tests |
//!
//! A driver keeps no list of its own: what runs is read from the machine, so a
//! daemon that was killed finds everything again.

mod cgroup;
mod command;
mod disk;
mod error;
mod facts;
mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod kept;
mod machine;
mod owner;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod drivers;
#[cfg(feature = "fake")]
pub mod fake;
pub mod network;
pub mod process;
pub mod runtime;
mod snapshots;
mod volumes;

pub use drivers::container::facts::ContainerFacts;
pub use drivers::qemu::facts::VmmFacts;
pub use error::{DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, is_full};
pub use facts::GuestFacts;
pub use machine::NodeMachine;
pub use process::ProcessFacts;
pub use runtime::{
    BuilderSpec, DiskRetention, DiskUsage, Guest, GuestExitWatch, GuestSpec, GuestState, GuestStats, GuestStream,
    HelperSpec, ObservedRun, Runtime, RuntimeInfo, Slot,
};
pub use snapshots::{SnapshotDisk, Snapshots};
pub use volumes::{VolumeDisk, Volumes};
