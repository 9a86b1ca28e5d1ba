//! OCI images to bootable disks, and the guest kernel.
//!
//! | module | does |
//! |---|---|
//! | [`kernel`] | the distribution's kernel and an initramfs with `pod` as `/init` |

mod config;
mod progress;
mod tool;

pub mod kernel;

pub use config::{Config, ConfigError};
pub use progress::{Progress, Silent};
