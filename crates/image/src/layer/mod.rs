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
//! What is kept: owners, modes with the set-user-id and set-group-id bits, and the
//! capabilities of files. Whether they count is the runtime's to say, and its to tell.
//!
//! What is dropped: all other extended attributes. One of the overlay file system
//! must not come from an image.

mod apply;
mod archive;
mod capabilities;
mod entry;
mod error;
mod path;
mod root;
mod sparse;
mod unpack;
mod walk;

pub(crate) use apply::{UnpackBudget, apply};
pub(crate) use capabilities::FileCapabilities;
pub use error::LayerError;
pub(crate) use error::read as read_error;
pub(crate) use root::{ImageRoot, SHIFTED_IDS};
pub use unpack::unpack;
pub(crate) use walk::walk;
