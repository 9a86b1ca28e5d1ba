//! The nodes: what is asked of one, and what all of them said of themselves lately.

pub(crate) mod images;
pub(crate) mod inventory;
pub(crate) mod node;
pub(crate) mod remote;
mod report;
