//! The public edge: authentication, routes, ingress, streaming, limits.
//!
//! A request comes in on one of our listeners ([`serve`]), is given a trace, and goes by its host, path or a header
//! either to an agent (`ingress`) or to the API (`api::routes`).
//!
//! | folder | holds |
//! |---|---|
//! | `edge` | what every request passes: listeners, connections, TLS, limits, the trace, the hosts we answer to |
//! | `auth` | whose signature it is, for which gateway, spent once, or whose API key; the agents' tokens |
//! | `api` | the routes and their document; `keys`, and one folder of handlers a surface: `agents`, `money`, `meta` |
//! | `ingress` | the way to an agent and back, and what is paid on it |
//! | `payments` | what is needed of the treasury, as a narrow trait |
//! | `state` | what all of them share; imports no handler |
//! | `health` | whether what the gateway works with works: `/ready` |
//! | `error` | every error's answer: the only place that knows both |
//!
//! # What a handler may rely on
//! A handler that takes a `Holder` (`auth::caller`) runs only for a verified signature that binds the request and this
//! gateway, and was spent durably before. The other extractors there say what else they let in: Romulus's own text, or
//! API keys of some scope. `SpawningHolder` alone is not spent yet: `spawn` does that itself.

mod api;
mod auth;
mod config;
mod edge;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod health;
mod ids;
mod ingress;
mod payments;
mod serve;
mod state;

pub use api::openapi::openapi;
pub use auth::tokens::{TokenKeyError, token_key};
pub use config::{Config, ConfigError, Limits, TlsConfig};
pub use edge::hosts::{Host, NameError, Origin};
pub use edge::listen::{ListenError, Listeners};
pub use edge::tls::TlsError;
pub use payments::PaymentProvider;
pub use serve::{ServeError, serve};
pub use state::GatewayParts;
