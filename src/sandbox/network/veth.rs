//! A pair of interfaces, one end in the steps' namespace, the other in the machine's, which translates addresses between them:
//! what `docker0` is to Docker's containers, for one build.
//!
//! Nothing of the machine's own is changed: forwarding has to be on already, and the packet filter is a table of our own. Both
//! ends go with the namespace, the table with its socket, so a killed croze leaves nothing.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::firewall::{Firewall, PROBE};
use super::netlink::{Attributes, CREATE, EXCLUSIVE, Message, Netlink, as_number, attribute};
use super::{NetworkError, enter_new_namespace};

/// The pair, as long as its namespace exists.
#[derive(Debug)]
pub(super) struct Veth {
    /// The machine's address on it.
    pub(super) gateway: Ipv4Addr,
    /// Held by whoever keeps the network.
    pub(super) firewall: Option<Firewall>,
}

/// Where the machine sends what is for everybody else.
struct Uplink {
    index: u32,
    mtu: u32,
}

/// Two addresses in a network of four that nothing else here knows.
struct Place {
    /// The machine's interface, a name that only one process can take.
    link: String,
    gateway: Ipv4Addr,
    step: Ipv4Addr,
}

/// The steps' interface, by Docker's name for it.
const INSIDE: &str = "eth0";
/// Networks of four addresses out of 172.29.0.0/16.
const PLACES: u32 = 1 << 14;
const PREFIX_BITS: u8 = 30;
/// How many places are tried.
const ATTEMPTS: u32 = 64;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const INET: u8 = 2;
const UP: u32 = 1;

/// Connects a new namespace, which this thread moves into: it is to be used for nothing else afterwards.
///
/// # Errors
/// `ForwardingOff`, `Blocked`, `System`: what this machine lacks for it.
pub(super) fn connect() -> Result<(OwnedFd, Veth), NetworkError> {
    let failed = |action| move |source: Errno| NetworkError::System { action, source: source.into() };
    let outside = Netlink::route().map_err(failed("ask for interfaces"))?;
    let filters = Netlink::netfilter().map_err(failed("ask for packet filters"))?;
    let uplink = uplink(&outside).map_err(failed("ask for the default route"))?;
    if let Some(uplink) = &uplink {
        let name = link_name(&outside, uplink.index).map_err(failed("ask for the outer interface"))?;
        let forwarding = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/forwarding"));
        if forwarding.is_ok_and(|text| text.trim() == "0") {
            return Err(NetworkError::ForwardingOff { interface: name });
        }
    }
    let namespace = enter_new_namespace()?;
    let inside = Netlink::route().map_err(failed("ask for interfaces"))?;
    raise(&inside, 1).map_err(failed("bring up the loopback device"))?;
    // both ends speak version 4 alone: what they would say in version 6 is noise
    let _old_kernel = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let mtu = uplink.as_ref().map_or(1500, |uplink| uplink.mtu);
    let place = make_pair(&outside, &namespace, mtu).map_err(failed("make a pair of interfaces"))?;
    let ready = || -> Result<(), Errno> {
        let (outer, inner) = (index_of(&outside, &place.link)?, index_of(&inside, INSIDE)?);
        give_address(&outside, outer, place.gateway)?;
        give_address(&inside, inner, place.step)?;
        raise(&outside, outer)?;
        raise(&inside, inner)?;
        introduce(&outside, outer, place.step)?;
        introduce(&inside, inner, place.gateway)?;
        let route = Attributes::new().put(5, &place.gateway.octets()).number(4, inner);
        inside.tell(&Message { kind: NEW_ROUTE, flags: CREATE, body: route.after(&[INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]) })
    };
    ready().map_err(failed("set up a pair of interfaces"))?;
    let firewall = Firewall::put_up(filters, &place.link, place.step).map_err(failed("translate addresses (nftables)"))?;
    if uplink.is_some() {
        probe(&firewall)?;
    }
    Ok((namespace, Veth { gateway: place.gateway, firewall: Some(firewall) }))
}

/// Sends one packet, which our own rule drops when all others have let it pass.
fn probe(firewall: &Firewall) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::System { action: "try the way out", source };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    for _ in 0..20 {
        socket.send_to(&[], PROBE).map_err(failed)?;
        if firewall.probed().map_err(|errno| failed(errno.into()))? {
            return Ok(());
        }
        // on a busy machine the kernel takes packets on later
        sleep(Duration::from_millis(5));
    }
    Err(NetworkError::Blocked)
}

/// Whether there is a route to the outside.
pub(super) fn is_connected(socket: &Netlink) -> Result<bool, Errno> {
    Ok(route_to(socket, PROBE.0)?.is_some())
}

fn uplink(outside: &Netlink) -> Result<Option<Uplink>, Errno> {
    let Some(route) = route_to(outside, PROBE.0)? else { return Ok(None) };
    let Some(index) = attribute(route.get(12..).unwrap_or_default(), 4).and_then(as_number) else { return Ok(None) };
    let link = outside.ask(&by_index(GET_LINK, index))?;
    let mtu = attribute(link.get(16..).unwrap_or_default(), 4).and_then(as_number).unwrap_or(1500);
    Ok(Some(Uplink { index, mtu }))
}

/// The line of the routing table that decides about an address; `None` if there is none.
fn route_to(outside: &Netlink, address: Ipv4Addr) -> Result<Option<Vec<u8>>, Errno> {
    const THE_LINE_ITSELF: [u8; 4] = 0x2000_u32.to_ne_bytes();
    let [a, b, c, d] = THE_LINE_ITSELF;
    let header = [INET, 32, 0, 0, 0, 0, 0, 0, a, b, c, d];
    let wanted = Attributes::new().put(1, &address.octets()).after(&header);
    match outside.ask(&Message { kind: GET_ROUTE, flags: 0, body: wanted }) {
        Ok(route) => Ok(Some(route)),
        Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes the pair, the inner end in `namespace`.
fn make_pair(outside: &Netlink, namespace: &OwnedFd, mtu: u32) -> Result<Place, Errno> {
    let namespace = u32::try_from(namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
    for attempt in 0..ATTEMPTS {
        // builds that start together begin their search apart
        let number = std::process::id().wrapping_mul(61).wrapping_add(attempt.wrapping_mul(389)) % PLACES;
        let network = u32::from(Ipv4Addr::new(172, 29, 0, 0)) + 4 * number;
        let place = Place { link: format!("croze{number}"), gateway: (network + 1).into(), step: (network + 2).into() };
        // a line that is about fewer addresses than all of them knows this one
        if route_to(outside, place.step)?.is_some_and(|route| route.get(1).is_none_or(|bits| *bits > 0)) {
            continue;
        }
        let ends =
            |name: &str, address: Ipv4Addr| Attributes::new().text(3, name).number(4, mtu).put(1, &hardware_address(address));
        let peer = ends(INSIDE, place.step).number(28, namespace).after(&[0; 16]);
        let pair = Attributes::new().text(1, "veth").nest(2, Attributes::new().nest(1, peer));
        let body = ends(&place.link, place.gateway).nest(18, pair).after(&[0; 16]);
        match outside.tell(&Message { kind: NEW_LINK, flags: CREATE | EXCLUSIVE, body }) {
            Ok(()) => return Ok(place),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::ADDRINUSE)
}

/// An address of our own making: locally administered, and different for each of a machine's pairs.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xc7, a, b, c, d]
}

/// Who is at the other end is known from the start, so nobody has to ask.
fn introduce(socket: &Netlink, index: u32, address: Ipv4Addr) -> Result<(), Errno> {
    let [a, b, c, d] = index.to_ne_bytes();
    const PERMANENT: [u8; 2] = 0x80_u16.to_ne_bytes();
    let header = [INET, 0, 0, 0, a, b, c, d, PERMANENT[0], PERMANENT[1], 0, 0];
    let body = Attributes::new().put(1, &address.octets()).put(2, &hardware_address(address)).after(&header);
    socket.tell(&Message { kind: NEW_NEIGHBOUR, flags: CREATE, body })
}

fn give_address(socket: &Netlink, index: u32, address: Ipv4Addr) -> Result<(), Errno> {
    let [a, b, c, d] = index.to_ne_bytes();
    let body = Attributes::new().put(2, &address.octets()).put(1, &address.octets());
    let header = [INET, PREFIX_BITS, 0, 0, a, b, c, d];
    socket.tell(&Message { kind: NEW_ADDRESS, flags: CREATE | EXCLUSIVE, body: body.after(&header) })
}

/// Brings an interface up.
pub(super) fn raise(socket: &Netlink, index: u32) -> Result<(), Errno> {
    let mut header = link_header(index);
    header[8..12].copy_from_slice(&UP.to_ne_bytes());
    header[12..].copy_from_slice(&UP.to_ne_bytes());
    socket.tell(&Message { kind: NEW_LINK, flags: 0, body: Attributes::behind(&header) })
}

fn index_of(socket: &Netlink, name: &str) -> Result<u32, Errno> {
    let wanted = Attributes::new().text(3, name).after(&[0; 16]);
    let link = socket.ask(&Message { kind: GET_LINK, flags: 0, body: wanted })?;
    link.get(4..8).and_then(as_number).ok_or(Errno::BADMSG)
}

fn link_name(socket: &Netlink, index: u32) -> Result<String, Errno> {
    let link = socket.ask(&by_index(GET_LINK, index))?;
    let name = attribute(link.get(16..).unwrap_or_default(), 3).ok_or(Errno::BADMSG)?;
    Ok(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
}

fn by_index(kind: u16, index: u32) -> Message {
    Message { kind, flags: 0, body: Attributes::behind(&link_header(index)) }
}

/// `struct ifinfomsg`.
fn link_header(index: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}
