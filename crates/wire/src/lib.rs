//! What crosses a wire: the APIs, one module each, by version. Types only; no IO.
//!
//! | module | spoken between | over |
//! |---|---|---|
//! | [`v1::public`] | anyone and the gateway | HTTP, TLS |
//! | [`v1::vault`] | the same: the financial layer | HTTP, TLS |
//! | [`v1::node`] | the gateway's control plane and `hypercore` | HTTP on a Unix socket |
//! | [`v1::pod`] | `hypercore` and `pod`, in the guest | HTTP on the guest's own link |
//! | [`process`] | whoever runs commands in a guest, and `pod` | Connect's JSON or [`proto`], in [`connect`] envelopes |
//! | [`filesystem`] | whoever works on a guest's files, and `pod` | the same; plain HTTP for what is in them |
//! | [`content`] | whoever works on the files of a volume that no agent has, and its helper | HTTP |
//! | [`v1::relay`] | anyone and the gasless relayer | HTTP, TLS |

pub mod connect;
pub mod content;
pub mod fault;
pub mod filesystem;
mod hex;
mod printable;
pub mod process;
pub mod proto;
pub mod v1;

mod secret;

pub use hex::{EvmAddress, EvmHash};
pub use printable::printable;
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
