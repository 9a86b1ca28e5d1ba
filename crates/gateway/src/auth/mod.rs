//! Whose signature or API key a request carries, for which gateway; and the agents' tokens.

pub(crate) mod apikeys;
pub(crate) mod audience;
pub(crate) mod caller;
pub(crate) mod spent;
pub(crate) mod tokens;
pub(crate) mod uses;
