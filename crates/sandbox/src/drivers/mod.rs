//! What implements [`Runtime`](crate::Runtime), one folder each.

pub mod qemu;
