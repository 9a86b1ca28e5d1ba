//! Where images come from. Each source fills the blobs of one image and says
//! which manifest it is; [`crate::ImageStore`] does the rest.

mod archive;
mod containerd;
mod docker;
mod error;
mod layout;
mod registry;
mod remote;

pub use containerd::ContainerdSource;
pub(crate) use containerd::fetch;
pub use error::{ContainerdError, RegistryError};
pub(crate) use layout::import;
pub use registry::Credentials;
pub(crate) use registry::{RegistrySource, pull};
