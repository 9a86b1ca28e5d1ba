//! A network namespace for each guest.
//!
//! ```text
//!  namespace <name>-<id>                        host
//!  ┌────────────────────────────────────┐
//!  │ tap0 10.200.0.1 ◀─▶ guest 10.200.0.2│
//!  │ up0  <range>.+2  ─────────────────────▶ <name>-<slot> <range>.+1 ─▶ uplink
//!  └────────────────────────────────────┘
//! ```
//!
//! `tap0` is a machine's card; of a container it is one end of a pair whose other end,
//! `eth0`, is in the container's own namespace. Rules and addresses are the same.
//!
//! Every guest has the same addresses, since every link is alone in its
//! namespace. Rules stand twice: in the namespace, and on the host in a table of
//! our own. Either alone keeps a guest from the host, from other guests and from
//! every address that is not the public internet's.
//!
//! What a guest sends costs the host: memory for each connection, time for each
//! packet. Each guest has a share of both ([`Config`]); what is over it is dropped in
//! the guest's namespace, before it becomes the host's, and counted ([`DroppedPackets`]).

mod config;
mod dial;
mod guest;
mod host;
mod lock;
mod netlink;
mod peer;
mod rules;
mod ruleset;
mod shared;

pub use config::{AddressRange, Config, ConfigError, Egress, NetworkName, PrivateTarget};
pub(crate) use dial::NamespaceSockets;
pub use guest::DroppedPackets;
pub(crate) use guest::{Namespace, Tap};
pub(crate) use host::HostNetwork;
pub(crate) use lock::NetworkReservation;
