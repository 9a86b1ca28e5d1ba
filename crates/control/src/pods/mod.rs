//! What a holder asks for: a POD's runs are admitted, spawned and stopped here.

pub(crate) mod admit;
mod boot;
pub(crate) mod error;
pub(crate) mod inflight;
pub(crate) mod lifetime;
pub(crate) mod locks;
pub(crate) mod needs;
mod place;
pub(crate) mod snapshots;
pub(crate) mod spawn;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod volumes;
