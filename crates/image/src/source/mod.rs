//! Where images come from. Each source fills the blobs of one image and says
//! which manifest it is; [`crate::ImageStore`] does the rest.

mod archive;
mod docker;
mod layout;
mod registry;

pub(crate) use layout::import;
pub use registry::{Credentials, RegistryError};
pub(crate) use registry::{Source as RegistrySource, pull};
