//! What isolates an agent: the [`Runtime`] trait, its drivers, guest networks
//! and disks.
//!
//! | module | holds |
//! |---|---|
//! | [`runtime`] | the trait, in the order its calls come, and what passes through it |
//! | [`qemu`] | the driver: one QEMU `microvm` for each sandbox, on KVM or emulated |
//! | [`network`] | a network namespace for each guest, and the rules of its way out |
//! | [`process`] | processes by id and start time, so that a reused id is never taken for them |
//! | `disk`, `cgroup`, `command` | the driver's tools |
//! | `kept` | disks that outlived their sandbox |
//! | `conformance` (feature) | the suite that every driver runs |
//! | `fake` (feature) | a runtime without guests, for tests |
//!
//! A driver keeps no list of its own: what runs is read from the machine, so a
//! daemon that was killed finds everything again.

mod cgroup;
mod command;
mod disk;
mod error;
mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod kept;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "fake")]
pub mod fake;
pub mod network;
pub mod process;
pub mod qemu;
pub mod runtime;

pub use error::{DriverError, Failure, Operation, Refusal, RuntimeError, is_full};
pub use runtime::{About, Condition, Exit, Facts, Fate, Guest, Link, Remains, Room, Runtime, Seat, Spec, Stats};
