//! What implements [`Runtime`](crate::Runtime), one folder each.

pub mod container;
pub mod qemu;
mod several;

pub use several::Several;
