//! Archives of holders' images: received piece by piece, then made images of.
//!
//! ```text
//! <images.store>/uploads/<id>/spec.json    what is to come
//!                             part         what has come
//!                             failed.json  why it is no image; the part is gone then
//!                             work/        what a build's machine is handed and hands out
//! ```
//!
//! What a daemon was killed over is where it was: a part keeps what had arrived, and an import
//! or a build begins again when it is asked for. One import works at a time, so that what they
//! take of the disk meanwhile does not add up; builds, which may take long, have places of their
//! own. Holders have both by turns. A build that nobody wants any more is stopped.

mod error;
mod machine;
mod make;
mod receive;
mod state;
mod verdict;

pub(crate) use error::UploadError;
pub(crate) use machine::{BuildMachines, MachineBuild};
pub(crate) use receive::Uploads;
