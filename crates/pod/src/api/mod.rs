//! The pod API (`wire::v1::pod`), over HTTP to the node.

mod agent;
mod auth;
mod body;
mod content;
mod error;
mod export;
mod files;
mod filesystem;
mod guest;
mod helper;
mod input;
mod metrics;
mod routes;
mod rpc;
mod serve;
mod tunnel;

pub(crate) use content::HelperFiles;
pub(crate) use helper::{DiskAccess, HelperApi, helper_routes};
pub(crate) use routes::routes;
pub(crate) use serve::serve;
