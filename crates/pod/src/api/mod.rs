//! The pod API (`wire::pod`), over HTTP on the guest's link.

mod auth;
mod body;
mod fault;
mod input;
mod life;
mod metrics;
mod process;
mod routes;
mod serve;

pub(crate) use routes::routes;
pub(crate) use serve::serve;
