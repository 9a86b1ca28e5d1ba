//! The node's HTTP API: what [`wire::v1::node`] says, on a Unix socket. Whoever may open
//! the socket may do everything.

mod about;
mod content;
mod document;
mod fault;
mod images;
mod logs;
mod marks;
mod pods;
mod process;
mod routes;
mod sandboxes;
mod snapshots;
mod state;
mod tunnel;
mod volumes;

pub use document::openapi;
pub(crate) use routes::routes;
pub(crate) use state::Api;
