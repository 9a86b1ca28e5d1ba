//! Questions to the kernel for which no program of the host is started: they are asked
//! at every guest's start and end, and at every look at the metrics.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// Bytes of an answer at most: one object, or a request that is quoted in an error.
const ANSWER: usize = 16 * 1024;
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// `IPCTNL_MSG_CT_DELETE` of the subsystem `NFNL_SUBSYS_CTNETLINK`.
const DELETE_CONNECTIONS: u16 = 0x0102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_ADDRESSES: u16 = 1;
const SOURCE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1;
const IPV4: u8 = 2;

/// `NFT_MSG_GETOBJ` and `NFT_MSG_NEWOBJ` of the subsystem `NFNL_SUBSYS_NFTABLES`.
const GET_OBJECT: u16 = 0x0a13;
const OBJECT: u16 = 0x0a12;
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
const INET: u8 = 1;

/// `NFT_MSG_GETGEN` and `NFT_MSG_NEWGEN`.
const GET_GENERATION: u16 = 0x0a10;
const GENERATION: u16 = 0x0a0f;
const GENERATION_ID: u16 = 1;

/// `NETLINK_ROUTE`, which is number 0.
const ROUTE: Option<Protocol> = None;
/// `RTM_GETLINK` and `RTM_NEWLINK`.
const GET_LINK: u16 = 18;
const LINK: u16 = 16;
const LINK_HEADER: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_ALIAS: u16 = 20;

/// What the link of this name in this thread's network namespace bears as its alias:
/// nothing if it bears none, and no answer if there is no such link. (Where sysfs shows
/// a link's alias, it shows the links of whoever has mounted it.)
pub(super) fn link_alias(name: &str) -> io::Result<Option<String>> {
    let socket = Socket::open(ROUTE)?;
    let answer = socket.ask(&message(GET_LINK, 0, &[0; LINK_HEADER], &attribute(LINK_NAME, &text(name))))?;
    match parse_error(&answer) {
        Some(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => Err(unclear()),
        None => alias(&answer).map(Some).ok_or_else(unclear),
    }
}

struct Socket(OwnedFd);

impl Socket {
    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?))
    }

    fn ask(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        send(&self.0, message, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER];
        // The kernel answers before `send` returns: there is nothing to wait for.
        let (read, _) = recv(&self.0, &mut answer[..], RecvFlags::DONTWAIT)?;
        answer.truncate(read);
        Ok(answer)
    }
}

/// A socket to the packet filter of this thread's network namespace.
pub(super) struct Netfilter(Socket);

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        Socket::open(Some(netlink::NETFILTER)).map(Self)
    }

    /// Forgets every connection that this address has begun.
    pub(super) fn forget_connections_of(&self, source: Ipv4Addr) -> io::Result<()> {
        let answer = self.0.ask(&message(DELETE_CONNECTIONS, ACKNOWLEDGE, &family(IPV4), &by_source(source)))?;
        parse_error(&answer).unwrap_or_else(|| Err(unclear()))
    }

    /// The number of the rules as they are: another one after every change, whoever
    /// makes it.
    pub(super) fn generation(&self) -> io::Result<u32> {
        let answer = self.0.ask(&message(GET_GENERATION, 0, &family(0), &[]))?;
        match parse_error(&answer) {
            Some(Err(error)) => Err(error),
            Some(Ok(())) => Err(unclear()),
            None => generation(&answer).ok_or_else(unclear),
        }
    }

    /// How many packets a named counter has seen.
    pub(super) fn counted(&self, table: &str, name: &str) -> io::Result<u64> {
        let asked = [
            attribute(OBJECT_TABLE, &text(table)),
            attribute(OBJECT_NAME, &text(name)),
            attribute(OBJECT_TYPE, &COUNTER.to_be_bytes()),
        ];
        let answer = self.0.ask(&message(GET_OBJECT, 0, &family(INET), &asked.concat()))?;
        match parse_error(&answer) {
            Some(Err(error)) => Err(error),
            Some(Ok(())) => Err(unclear()),
            None => packets(&answer).ok_or_else(unclear),
        }
    }
}

fn by_source(source: Ipv4Addr) -> Vec<u8> {
    let address = attribute(SOURCE, &source.octets());
    let tuple = attribute(TUPLE_ORIGINAL | NESTED, &attribute(TUPLE_ADDRESSES | NESTED, &address));
    let flags =
        [attribute(FILTER_ORIGINAL, &BY_SOURCE.to_ne_bytes()), attribute(FILTER_REPLY, &0_u32.to_ne_bytes())].concat();
    [tuple, attribute(FILTER | NESTED, &flags)].concat()
}

fn message(kind: u16, flags: u16, header: &[u8], attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + header.len() + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(header);
    message.extend(attributes);
    message
}

/// The packet filter's own header. Version 1: the family is looked at.
const fn family(family: u8) -> [u8; FAMILY_HEADER] {
    [family, 1, 0, 0]
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// What an error message says; an acknowledgement is one without an error.
fn parse_error(answer: &[u8]) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let code = i32::from_ne_bytes(*answer.get(HEADER..)?.first_chunk()?);
    match (kind, code) {
        (ERROR, 0) => Some(Ok(())),
        (ERROR, code) => Some(Err(io::Error::from_raw_os_error(-code))),
        _ => None,
    }
}

fn packets(answer: &[u8]) -> Option<u64> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind != OBJECT {
        return None;
    }
    let data = find(answer.get(HEADER + FAMILY_HEADER..)?, OBJECT_DATA)?;
    Some(u64::from_be_bytes(*find(data, COUNTER_PACKETS)?.first_chunk()?))
}

fn generation(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind != GENERATION {
        return None;
    }
    let id = find(answer.get(HEADER + FAMILY_HEADER..)?, GENERATION_ID)?;
    Some(u32::from_be_bytes(*id.first_chunk()?))
}

fn alias(answer: &[u8]) -> Option<String> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind != LINK {
        return None;
    }
    let alias = find(answer.get(HEADER + LINK_HEADER..)?, LINK_ALIAS).unwrap_or_default();
    Some(String::from_utf8_lossy(alias).trim_end_matches('\0').to_owned())
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & !NESTED;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn unclear() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the packet filter's answer has another shape")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_from_the_kernels_own_bytes() {
        // As Linux 6.18 answers for a counter that has seen 258 packets.
        let tail = "1c0004000c00010000000000000000000c0002000000000000000102";
        let head = "70000000120a000008000000a60a0000\
                    010000050d00010070616c6174696e6500000000110002006f7665725f7061636b6574730000000008000300000000010c0006000000000000000005\
                    0800050000000001";
        let bytes = hex(&format!("{head}{tail}"));
        assert_eq!(packets(&bytes), Some(258));
        for cut in 0..bytes.len() {
            assert_eq!(packets(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn an_error_is_told_from_an_acknowledgement() {
        let answer = |code: i32| [&[0; 4][..], &ERROR.to_ne_bytes(), &[0; 10], &code.to_ne_bytes()].concat();
        assert!(parse_error(&answer(0)).unwrap().is_ok());
        assert_eq!(parse_error(&answer(-2)).unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(parse_error(&[]).is_none());
    }

    #[test]
    fn a_link_is_told_from_none() {
        assert_eq!(link_alias("lo").unwrap().as_deref(), Some(""));
        assert_eq!(link_alias("no-such-link").unwrap(), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
