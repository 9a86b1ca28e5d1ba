//! The node daemon: one task owns one sandbox.

mod api;
mod clock;
mod config;
mod guest;
mod heartbeat;
mod images;
mod journal;
mod ledger;
mod logs;
mod node;
mod policy;
mod registry;
mod serve;
mod task;
#[cfg(test)]
mod tests;

pub use api::openapi;
pub use clock::Clock;
pub use config::{Config, ConfigError, OnShutdown};
pub use images::{Base, Images};
pub use sandbox::network::Config as NetworkConfig;
pub use serve::{Claim, Parts, ServeError, bind, serve};
