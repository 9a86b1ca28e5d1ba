//! Whether what the gateway works with works.

pub(crate) mod parts;
pub(crate) mod probe;
