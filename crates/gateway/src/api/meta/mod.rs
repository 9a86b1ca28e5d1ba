//! What the gateway says of itself.

pub(crate) mod document;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod tiers;
