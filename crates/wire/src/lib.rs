//! What crosses a wire: the APIs, one module each. Types only; no IO.
//!
//! | module | spoken between | over |
//! |---|---|---|
//! | [`public`] | anyone and the gateway | HTTP, TLS |
//! | [`vault`] | the same: the financial layer | HTTP, TLS |
//! | [`node`] | the gateway's control plane and `hypercore` | HTTP on a Unix socket |
//! | [`pod`] | `hypercore` and `pod`, in the guest | HTTP on the guest's own link |
//! | [`process`] | whoever runs commands in a guest, and `pod` | Connect's JSON, in [`connect`] envelopes |
//! | [`relay`] | anyone and the gasless relayer | HTTP, TLS |

pub mod connect;
pub mod fault;
mod hex;
pub mod node;
pub mod pod;
pub mod process;
pub mod public;
pub mod relay;
pub mod vault;

mod secret;

pub use hex::{EvmAddress, EvmHash};
pub use secret::{Environment, EnvironmentError, Secret};

/// The header that carries one trace id from the gateway through hypercore into
/// `pod` (W3C Trace Context, level 1).
pub const TRACEPARENT: &str = "traceparent";

/// The trace id in a `traceparent`, for logs; empty where it names none.
#[must_use]
pub fn trace_id(traceparent: &str) -> &str {
    let id = traceparent.split('-').nth(1).unwrap_or_default();
    let shaped = id.len() == 32 && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if shaped { id } else { "" }
}
