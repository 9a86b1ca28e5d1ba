//! The guest's kernel and its first root.
//!
//! The kernel is the distribution's own, as its package has it; nothing of it is
//! installed on the host. The initramfs holds `/init` (which is `pod`), empty
//! `/dev`, `/proc`, `/sys` and `/mnt`, and `/modules/NN-name.ko`, to be loaded in
//! the order of their names. `/offered/<version>` is what a guest's own `modprobe`
//! finds at `/lib/modules/<version>`.

mod cpio;
mod error;
mod fsck;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod index;
mod initramfs;
mod modules;
mod package;
mod prepare;
mod strip;
mod unpack;

pub use error::KernelError;
pub use prepare::{Kernel, fetch, prepare};
