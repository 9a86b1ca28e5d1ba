//! Typed clients of two of the house's APIs.
//!
//! | client | speaks | for |
//! |---|---|---|
//! | [`NodeClient`] | [`wire::node`], over a Unix socket | the control plane and the gateway |
//!
//! Every call has a deadline and every answer a bound; both are named.

mod node;

pub use node::{Deadlines, LogSource, NodeBody, NodeClient, NodeError, Tunnel};
