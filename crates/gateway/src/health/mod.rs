//! Whether what the gateway works with works.

pub(crate) mod components;
pub(crate) mod probe;
