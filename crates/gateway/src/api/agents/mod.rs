//! What holders ask of their agents.

pub(crate) mod admission;
pub(crate) mod attach;
pub(crate) mod events;
pub(crate) mod logs;
pub(crate) mod mounts;
pub(crate) mod spawn;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod timeout;
pub(crate) mod token;
pub(crate) mod usage;
