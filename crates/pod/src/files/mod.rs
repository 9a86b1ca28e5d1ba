//! Files in the guest for callers, with the rights of a user of it: the inside of E2B's
//! file protocols. What is pure lies in `paths` and `events`; the rest makes system calls,
//! in threads that have the user's rights.

mod attributes;
mod compose;
mod content;
mod download;
mod entry;
mod error;
mod events;
mod heads;
mod metadata;
mod mode;
mod own;
mod pack;
mod paths;
mod pax;
mod rights;
mod staging;
mod tree;
mod unpack;
mod upload;
mod watch;
mod watchers;

pub(crate) use compose::compose;
pub(crate) use content::{FileTree, NewEntry};
pub(crate) use download::{Download, open};
pub(crate) use error::FileError;
pub(crate) use metadata::of_headers as metadata_of;
pub(crate) use mode::FileMode;
pub(crate) use pack::ArchivePlan;
pub(crate) use paths::{PathBase, PathError};
pub(crate) use rights::FileWorkers;
pub(crate) use staging::recover as recover_import;
pub(crate) use tree::{list, make_dir, move_to, remove, set_mode, stat};
pub(crate) use unpack::ImportRequest;
pub(crate) use upload::{Piece, Upload, receive};
pub(crate) use watch::{Watch, WatchSpec};
pub(crate) use watchers::Watchers;
