//! Vaults, links, prices, the relayer and the facilitator.

pub(crate) mod facilitator;
pub(crate) mod links;
pub(crate) mod prices;
pub(crate) mod relay;
pub(crate) mod vaults;
