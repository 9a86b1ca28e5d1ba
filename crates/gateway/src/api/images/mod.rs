//! `/images`: what holders bring. Bytes go through to a node; what an archive is, the node says.

pub(crate) mod catalog;
pub(crate) mod quota;
pub(crate) mod sweep;
pub(crate) mod turns;
pub(crate) mod upload;
