//! The image store from outside: what it takes in, refuses, keeps and survives.
//!
//! Needs root and the package `erofs-utils`.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod archive;
mod build;
mod cases;
mod containerd;
mod containerfile;
mod crash;
mod disk;
mod fixture;
mod held;
mod heldbuild;
mod hostile;
mod keep;
mod recipe;
mod registry;
mod signature;
mod starter;
