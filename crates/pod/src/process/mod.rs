//! Processes: who runs them, how they are confined, how their ends are heard of.

mod exit;
mod launch;
mod pipe;
mod reaper;
mod user;

pub(crate) use exit::Exit;
pub(crate) use launch::{OomScore, ProcessSpec, Streams, raise_open_files};
pub(crate) use pipe::AsyncPipe;
pub(crate) use reaper::Reaper;
pub(crate) use user::{Accounts, Privileges, User, UserError, am_root};
