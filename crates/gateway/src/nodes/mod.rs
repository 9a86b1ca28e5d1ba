//! What is needed of the nodes, as narrow traits.

pub(crate) mod guests;
pub(crate) mod images;
pub(crate) mod record;
