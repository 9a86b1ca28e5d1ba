//! The guest's link: loopback and `eth0`, IPv4 only, one route.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::fs::Access;
use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use wire::v1::pod::{GATEWAY_ADDRESS, GUEST_ADDRESS, PORT, PREFIX_LENGTH};

use super::error::BootError;
use crate::step::{Context as _, StepError};

/// The guest's only network card.
const INTERFACE: &str = "eth0";
const LOOPBACK: &str = "lo";

const SIOCADDRT: Opcode = 0x890b;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const IFF_UP_RUNNING: u16 = 0x41;
const RTF_UP_GATEWAY: u16 = 0x3;
const AF_INET: u16 = 2;

/// Settings of the network, made before the links are up. IPv6 is off but for the loopback,
/// where programs expect `::1`: on its link a guest has no address there, not even a
/// link-local one. Ports below 1024 are the agent's to serve, though it be not root: it is
/// alone here.
const SETTINGS: [(&str, &str); 4] = [
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
];

/// The kernel's `struct sockaddr_in`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Address {
    family: u16,
    port: u16,
    address: [u8; 4],
    zero: [u8; 8],
}

impl Address {
    const fn of(address: Ipv4Addr) -> Self {
        Self { family: AF_INET, port: 0, address: address.octets(), zero: [0; 8] }
    }
}

/// The kernel's `struct ifreq`, with an address in its union.
#[repr(C)]
struct AddressRequest {
    name: [u8; 16],
    address: Address,
    rest: [u8; 8],
}

/// The kernel's `struct ifreq`, with flags in its union.
#[repr(C)]
struct FlagsRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// The kernel's `struct rtentry` on 64 bits.
#[repr(C)]
struct RouteRequest {
    pad1: u64,
    destination: Address,
    gateway: Address,
    mask: Address,
    flags: u16,
    pad2: u16,
    pad3: u64,
    pad4: u64,
    metric: u16,
    device: u64,
    mtu: u64,
    window: u64,
    irtt: u16,
}

/// Whether the card has its driver. Not asked by a socket: the kernel would call
/// for a program that loads modules each time the answer is no.
pub(super) fn link_exists() -> bool {
    rustix::fs::access("/sys/class/net/eth0", Access::EXISTS).is_ok()
}

/// Brings both links up, with the addresses every guest has, and listens: before
/// `eth0` is up, so that the node's first packet is answered.
pub(super) fn up() -> Result<TcpListener, BootError> {
    if !link_exists() {
        return Err(BootError::NoLink(INTERFACE));
    }
    for (path, value) in SETTINGS {
        match std::fs::write(path, value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => done.context(format_args!("set {path}"))?,
        }
    }
    let socket = control_socket().context("open a socket")?;
    raise(&socket, LOOPBACK).context("bring up the loopback")?;
    address(&socket).context("set the guest's address")?;
    let listener = listen()?;
    raise(&socket, INTERFACE).context("bring up the link")?;
    route(&socket).context("set the default route")?;
    Ok(listener)
}

/// Listens on the guest's link. The agent reaches this address as well (the
/// kernel counts what a guest sends to itself as arriving on `eth0`, whatever the
/// socket is bound to): `api::serve` turns it away by its own address, and every
/// call wants the token.
fn listen() -> Result<TcpListener, StepError> {
    let listener = TcpListener::bind((GUEST_ADDRESS, PORT)).context("listen on the guest's link")?;
    listener.set_nonblocking(true).context("listen on the guest's link")?;
    Ok(listener)
}

fn control_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn name(link: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..link.len()].copy_from_slice(link.as_bytes());
    name
}

#[expect(unsafe_code, reason = "an ioctl: the opcode takes exactly this structure, and only reads it")]
fn raise(socket: &OwnedFd, link: &str) -> rustix::io::Result<()> {
    let request = FlagsRequest { name: name(link), flags: IFF_UP_RUNNING, rest: [0; 22] };
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`, which `FlagsRequest` is laid out as.
    unsafe { ioctl(socket, Setter::<SIOCSIFFLAGS, FlagsRequest>::new(request)) }
}

#[expect(unsafe_code, reason = "ioctls: the opcodes take exactly this structure, and only read it")]
fn address(socket: &OwnedFd) -> rustix::io::Result<()> {
    let request = |address| AddressRequest { name: name(INTERFACE), address: Address::of(address), rest: [0; 8] };
    let mask = Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(PREFIX_LENGTH)));
    // SAFETY: both read a `struct ifreq`, which `AddressRequest` is laid out as.
    unsafe {
        ioctl(socket, Setter::<SIOCSIFADDR, AddressRequest>::new(request(GUEST_ADDRESS)))?;
        ioctl(socket, Setter::<SIOCSIFNETMASK, AddressRequest>::new(request(mask)))
    }
}

#[expect(unsafe_code, reason = "an ioctl: the opcode takes exactly this structure, and only reads it")]
fn route(socket: &OwnedFd) -> rustix::io::Result<()> {
    let any = Address::of(Ipv4Addr::UNSPECIFIED);
    let request = RouteRequest {
        pad1: 0,
        destination: any,
        gateway: Address::of(GATEWAY_ADDRESS),
        mask: any,
        flags: RTF_UP_GATEWAY,
        pad2: 0,
        pad3: 0,
        pad4: 0,
        metric: 0,
        device: 0,
        mtu: 0,
        window: 0,
        irtt: 0,
    };
    // SAFETY: SIOCADDRT reads a `struct rtentry`, which `RouteRequest` is laid out as.
    unsafe { ioctl(socket, Setter::<SIOCADDRT, RouteRequest>::new(request)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_have_the_kernels_sizes() {
        assert_eq!(size_of::<AddressRequest>(), 40);
        assert_eq!(size_of::<FlagsRequest>(), 40);
        assert_eq!(size_of::<RouteRequest>(), 120);
        assert_eq!(std::mem::offset_of!(RouteRequest, metric), 80);
        assert_eq!(std::mem::offset_of!(RouteRequest, device), 88);
    }
}
