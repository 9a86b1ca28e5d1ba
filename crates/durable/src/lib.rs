//! Files that are there whole or not at all, whenever their writer is killed.
//!
//! Every file that must survive is written by one of these functions, under the
//! name of what it is (`node.key`, `record`). Each step of a write is a failpoint
//! of that name (`node.key.written`), at which tests kill the program: see
//! [`failpoint`].

mod draft;
mod failpoint;
mod file;
mod folder;
mod reserve;

pub use failpoint::{AT, CHILD, SEEN, failpoint};
pub use file::{create, make_dir, move_to, name_aside, replace, set_aside, wipe};
pub use folder::{parent, sync_parent};
pub use reserve::BallastFile;
