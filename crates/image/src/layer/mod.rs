//! Layers: archives that are applied one over the other to make a root.
//!
//! What is refused: `..` in a path or a link, and whatever is too deep, too long, too
//! many or too large. Every path is
//! resolved by the kernel with the root as `/` (`openat2`, `RESOLVE_IN_ROOT`), so
//! no symlink of an image leads out of it.
//!
//! What is left out, with a warning: device nodes and fifos. A guest has its own
//! `/dev`, and nothing else may come from an image.
//!
//! What is dropped: extended attributes, and the set-user-id and set-group-id
//! bits of files. An agent is one user; nothing in a guest may make it another,
//! and an attribute of the overlay file system must not come from an image.

mod apply;
mod archive;
mod entry;
mod error;
mod path;
mod root;
mod sparse;
mod unpack;

pub(crate) use apply::{UnpackBudget, apply};
pub use error::LayerError;
pub(crate) use root::ImageRoot;
pub(crate) use unpack::unpack;
