//! OCI images to bootable disks, and the guest kernel.
//!
//! | module | does |
//! |---|---|
//! | [`ImageStore`] | takes images in, keeps them by digest, lists and removes them |
//! | [`contract`] | what an image says about how it is run |
//! | [`recipe`] | the local recipe, `image.toml`; `build` makes images of it |
//! | [`kernel`] | the distribution's kernel and an initramfs with `pod` as `/init` |

mod apart;
mod assemble;
mod blobs;
mod build;
mod config;
mod contents;
mod digest;
mod disk;
mod document;
mod erase;
mod error;
mod export;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod held;
mod image;
mod layer;
mod linked;
mod lock;
mod programs;
mod progress;
mod served;
mod signature;
mod source;
mod store;
mod tool;

pub mod contract;
pub mod kernel;
pub mod recipe;

pub use apart::{ApartBuild, ContextLook};
pub use build::{BuildError, find_containerfile as containerfile, last as last_lines, plain_line};
pub use config::{Config, ConfigError};
pub use digest::DigestError;
pub use error::ImageError;
pub use held::HeldBuild;
pub use image::{Image, ImageSummary, Removal};
pub use layer::{LayerError, unpack};
pub use lock::LockError;
pub use programs::missing as missing_to_build;
pub use progress::{NoProgress, Progress};
pub use served::{Served, StoreServer};
pub use signature::SignatureError;
pub use source::{ContainerdError, ContainerdSource, Credentials, RegistryError};
pub use store::{BuildOptions, ImageStore, Removed};
pub use tool::ToolError;
