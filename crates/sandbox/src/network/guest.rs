//! One guest's namespace and its way out: made, removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use domain::RunId;
use rustix::ioctl::{Updater, ioctl};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wire::v1::pod::{GATEWAY_ADDRESS, GUEST_ADDRESS, PREFIX_LENGTH};

use super::netlink::{Netfilter, link_alias};
use super::{Config, Egress, rules};
use crate::{DriverFailure, command};

/// Where `ip netns` keeps its names.
pub(super) const NAMESPACES: &str = "/run/netns";
/// The guest's card; every link is alone, so all may have the same.
const GUEST_MAC: &str = "02:00:0a:c8:00:02";
const TAP: &[u8] = b"tap0";
/// Bytes that a shaped link lets through at once, at least: the largest packet twice.
const BURST_BYTES: u64 = 128 * 1024;
/// Bytes that pass in ten milliseconds, for each Mbit per second: the burst of a link
/// with a higher rate.
const BURST_BYTES_PER_MBIT: u64 = 1_250;
/// How long what is over its rate may wait before it is dropped.
const QUEUE: &str = "50ms";

/// The host's end of a guest's card: a file that is handed to the VMM.
pub(crate) struct Tap(pub(crate) OwnedFd);

impl Tap {
    /// The card's address, for the VMM.
    pub(crate) const MAC: &str = GUEST_MAC;
}

/// Packets of a guest that were dropped because it had used up its share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedPackets {
    /// More than `network.packets_per_second`.
    pub packets: u64,
    /// Of connections beyond `network.connections_per_second`.
    pub connection_rate: u64,
    /// Of connections beyond `network.connections`.
    pub connections: u64,
}

/// The namespace of one guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace<'a> {
    config: &'a Config,
    /// What the node's links bear.
    mark: &'a str,
    id: RunId,
}

impl<'a> Namespace<'a> {
    pub(crate) const fn new(config: &'a Config, mark: &'a str, id: RunId) -> Self {
        Self { config, mark, id }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.config.name, self.id)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(self.name())
    }

    /// The host's end of the way out of this slot.
    fn link(&self, slot: u16) -> String {
        format!("{}-{slot}", self.config.name)
    }

    /// Makes the namespace, its links and its rules; what an earlier try left is
    /// removed first. The rules stand before anything can run behind the link.
    pub(crate) fn up(&self, slot: u16) -> Result<Tap, DriverFailure> {
        self.up_with(slot, open_tap)
    }

    /// The same for a container whose entry process does not run yet: its card is the other end
    /// of a pair of links, in the network namespace that has this path.
    pub(crate) fn up_for_container(&self, slot: u16, network: &str) -> Result<(), DriverFailure> {
        self.up_with(slot, || {
            let card = format!("link add tap0 type veth peer name eth0 address {GUEST_MAC} netns {network}\n");
            command::run("ip", &["-batch", "-"], &format!("{card}link set tap0 addrgenmode none\n"))
        })?;
        inside(Path::new(network), || {
            container_sysctls()?;
            command::run("ip", &["-batch", "-"], &container_links())
        })
    }

    fn up_with<T: Send>(
        &self,
        slot: u16,
        card: impl FnOnce() -> Result<T, DriverFailure> + Send,
    ) -> Result<T, DriverFailure> {
        self.down(Some(slot))?;
        let link = self.link(slot);
        if link_alias(&link)?.is_some() {
            return Err(DriverFailure::Taken(format!("the link {link} is there and is not this node's")));
        }
        command::run("ip", &["-batch", "-"], &self.outside(slot))?;
        if self.config.egress == Egress::Internet {
            fs::write(format!("/proc/sys/net/ipv4/conf/{link}/forwarding"), "1")?;
        }
        self.shape(&link)?;
        inside(&self.path(), || {
            sysctls()?;
            let card = card()?;
            command::run("nft", &["-f", "-"], &rules::guest(self.config))?;
            command::run("ip", &["-batch", "-"], &self.within(slot))?;
            self.shape("up0")?;
            Ok(card)
        })
    }

    /// Bounds what leaves by a link of this thread's namespace: at the host's end that
    /// is what the guest receives, at the other what it sends.
    fn shape(&self, link: &str) -> Result<(), DriverFailure> {
        let rate = self.config.mbit_per_second;
        if rate == 0 || self.config.egress == Egress::None {
            return Ok(());
        }
        let burst = (u64::from(rate) * BURST_BYTES_PER_MBIT).max(BURST_BYTES);
        let words = format!("qdisc replace dev {link} root tbf rate {rate}mbit burst {burst} latency {QUEUE}\n");
        command::run("tc", &["-batch", "-"], &words)
    }

    /// Removes the namespace and the link, whatever is there of them and this node's.
    /// Where the slot is not known, the link goes with the namespace that holds its other
    /// end.
    pub(crate) fn down(&self, slot: Option<u16>) -> Result<(), DriverFailure> {
        let linked = match slot {
            Some(slot) if link_alias(&self.link(slot))?.as_deref() == Some(self.mark) => Some(slot),
            Some(_) | None => None,
        };
        let mut batch = linked.map(|slot| format!("link del {}\n", self.link(slot))).unwrap_or_default();
        if self.path().exists() {
            batch.push_str(&format!("netns del {}\n", self.name()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        command::run("ip", &["-batch", "-"], &batch)?;
        if let Some(slot) = linked {
            self.forget_connections(slot);
        }
        Ok(())
    }

    /// The host would remember them for days: they would fill its table one guest after
    /// the other, and count against the next one with this address.
    fn forget_connections(&self, slot: u16) {
        let (_, here) = self.config.range.ends(slot);
        let forgotten = Netfilter::open().and_then(|filter| filter.forget_connections_of(here));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "the connections of a guest that ended stay in the host's table");
        }
    }

    /// What was dropped so far.
    pub(crate) fn limited(&self) -> Result<DroppedPackets, DriverFailure> {
        inside(&self.path(), || {
            let filter = Netfilter::open()?;
            let [packets, connection_rate, connections] = rules::COUNTERS;
            let counted = |name| filter.counted(rules::TABLE, name);
            Ok(DroppedPackets {
                packets: counted(packets)?,
                connection_rate: counted(connection_rate)?,
                connections: counted(connections)?,
            })
        })
    }

    fn outside(&self, slot: u16) -> String {
        let (name, link, mark) = (self.name(), self.link(slot), self.mark);
        let (host, _) = self.config.range.ends(slot);
        let namespace = format!("netns add {name}\n");
        match self.config.egress {
            Egress::None => namespace,
            Egress::Internet => format!(
                "{namespace}link add {link} type veth peer name up0 netns {name}\n\
                 link set {link} addrgenmode none alias {mark}\n\
                 addr add {host}/30 dev {link}\n\
                 link set {link} up\n"
            ),
        }
    }

    fn within(&self, slot: u16) -> String {
        let tap = format!(
            "link set lo up\n\
             addr add {GATEWAY_ADDRESS}/{PREFIX_LENGTH} dev tap0\n\
             link set tap0 up\n\
             neigh replace {GUEST_ADDRESS} lladdr {GUEST_MAC} dev tap0 nud permanent\n"
        );
        let (host, here) = self.config.range.ends(slot);
        match self.config.egress {
            Egress::None => tap,
            Egress::Internet => {
                format!("{tap}addr add {here}/30 dev up0\nlink set up0 up\nroute add default via {host}\n")
            }
        }
    }
}

/// Runs something on a thread of its own that lives in a namespace and ends there.
fn inside<T: Send>(
    namespace: &Path,
    act: impl FnOnce() -> Result<T, DriverFailure> + Send,
) -> Result<T, DriverFailure> {
    let namespace = File::open(namespace)?;
    let work = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(DriverFailure::Missing("the thread in the namespace is gone".to_owned())))
}

fn sysctls() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    set_ipv6([("all", "1"), ("default", "1")])
}

/// Settings of a container's own network, as `pod` makes them in a machine.
fn container_sysctls() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    set_ipv6([("all", "1"), ("default", "1"), ("lo", "0")])
}

fn set_ipv6<const N: usize>(disabled: [(&str, &str); N]) -> io::Result<()> {
    for (scope, value) in disabled {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// What every guest has on its side of the link.
fn container_links() -> String {
    format!(
        "link set lo up\n\
         addr add {GUEST_ADDRESS}/{PREFIX_LENGTH} dev eth0\n\
         link set eth0 up\n\
         route add default via {GATEWAY_ADDRESS}\n"
    )
}

/// `struct ifreq` with its flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Makes the card in the namespace of this thread. It lives as long as the file.
#[expect(unsafe_code, reason = "rustix has no call for TUNSETIFF")]
fn open_tap() -> Result<Tap, DriverFailure> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|error| {
        DriverFailure::Missing(format!("/dev/net/tun cannot be opened ({error}); is the kernel module tun loaded?"))
    })?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..TAP.len()].copy_from_slice(TAP);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is 40 bytes and laid out as above.
    unsafe { ioctl(&tun, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }?;
    Ok(Tap(tun.into()))
}
