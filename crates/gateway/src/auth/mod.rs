//! Whose signature a request carries, for which gateway, good once; and the agents' tokens.

pub(crate) mod audience;
pub(crate) mod caller;
pub(crate) mod spent;
pub(crate) mod tokens;
