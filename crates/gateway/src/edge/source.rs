//! Where a request comes from: its connection, its client, its trace.

use std::net::IpAddr;

use crate::edge::trace::TraceContext;
use crate::ingress::target::ListenerKind;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct RequestSource {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub(crate) trusted: bool,
    /// Whether it came over TLS.
    pub(crate) tls: bool,
    /// Its trace.
    pub(crate) trace: TraceContext,
}

/// The connection a request came on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) address: IpAddr,
    pub(crate) listener: ListenerKind,
    pub(crate) tls: bool,
}
