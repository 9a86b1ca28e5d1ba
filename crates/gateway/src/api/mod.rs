//! The public API: one folder for each surface.

pub(crate) mod agents;
pub(crate) mod content;
pub(crate) mod entries;
pub(crate) mod extract;
pub(crate) mod images;
pub(crate) mod kept;
pub(crate) mod keys;
pub(crate) mod meta;
pub(crate) mod money;
pub(crate) mod openapi;
pub(crate) mod routes;
pub(crate) mod snapshots;
pub(crate) mod volumes;
