//! The edge: listeners, connections, and what every request passes.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod dispatch;
pub(crate) mod eviction;
pub(crate) mod guarded;
pub(crate) mod headers;
pub(crate) mod hosts;
pub(crate) mod idle;
pub(crate) mod limits;
pub(crate) mod linger;
pub(crate) mod listen;
pub(crate) mod requester;
pub(crate) mod semaphore;
pub(crate) mod source;
pub(crate) mod streams;
pub(crate) mod tls;
pub(crate) mod trace;
