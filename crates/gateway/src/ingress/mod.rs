//! The way to an agent and back, and what is paid on it.

pub(crate) mod bodies;
pub(crate) mod envd;
pub(crate) mod paywall;
pub(crate) mod pool;
pub(crate) mod prices;
pub(crate) mod pricing;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod target;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
pub(crate) mod urls;
