//! The public edge: authentication, routes, ingress, streaming, limits.
//!
//! A request comes in on one of our listeners ([`serve`]), is given a trace, and
//! goes by its host, path or a header either to an agent (`ingress`) or to the API
//! (`routes`).
//!
//! | file | holds |
//! |---|---|
//! | `serve`, `connection`, `resting`, `linger`, `tls` | listeners, connections, draining |
//! | `entry`, `target`, `hosts` | what every request passes: trace, limits, the names we answer to, and whom it is for |
//! | `routes`, `spawn` (and `wish`), `agents`, `logs`, `events`, `process`, `meta` | the API's handlers, and `shape`, what they take and give |
//! | `vaults`, `links`, `prices`, `relay`, `facilitator` | the handlers of the financial layer |
//! | `ingress`, `headers`, `upgrade`, `answer`, `toll` | the way to an agent and back, and what is taken on it |
//! | `pages` | what pages of browsers may ask the API for |
//! | `urls` | where agents answer |
//! | `caller`, `names`, `spent` | whose signature it is, for which gateway, spent once |
//! | `health` | whether what the gateway works with works: `/ready` |
//! | `ids` | the agents' ids |
//! | `refusal` | every error's answer: the only place that knows both |
//! | `guests`, `images`, `shop` | what is needed of the nodes and of the treasury, as narrow traits |
//! | `pool`, `queue`, `streams`, `bodies` | what a request to an agent takes, and who has which share |
//! | `config`, `limit`, `trace`, `openapi` | as named |
//!
//! # What a handler may rely on
//! A handler that takes an [`caller::Owner`] runs only for a verified signature
//! that binds the request and this gateway, and was spent durably before. One that
//! takes a [`caller::Reader`], a [`caller::Stopper`] or a [`caller::Verified`] may
//! run for Romulus's own text; the last must spend it itself, and only `spawn` does.

mod agents;
mod answer;
mod bodies;
mod caller;
mod config;
mod connection;
mod entry;
mod events;
mod facilitator;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod guests;
mod headers;
mod health;
mod holding;
mod hosts;
mod ids;
mod images;
mod ingress;
mod limit;
mod linger;
mod links;
mod logs;
mod meta;
mod names;
mod openapi;
mod pages;
mod pool;
mod prices;
mod process;
mod pulse;
mod queue;
mod refusal;
mod relay;
mod resting;
mod routes;
mod serve;
mod shape;
mod shop;
mod spawn;
mod spent;
mod state;
mod streams;
mod target;
mod tariff;
mod tls;
mod token;
mod toll;
mod trace;
mod upgrade;
mod urls;
mod vaults;
mod wish;

pub use config::{Config, ConfigError, Limits, Tls};
pub use guests::{GuestError, Guests, Io, NodeGuests};
pub use hosts::{Host, NameError, Origin};
pub use images::{Images, NodeImages, Table};
pub use openapi::openapi;
pub use serve::{Listeners, ServeError, serve};
pub use shop::Shop;
pub use state::Parts;
pub use tls::TlsError;
pub use token::{TokenKeyError, token_key};
