//! The packet filter of one build: translates the addresses of its steps, keeps strangers out, and knows whether the machine's
//! other filters let them through.
//!
//! It is one table of nftables that belongs to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): whatever becomes of
//! this process, the table goes with it, and nobody else's rules are touched.
//!
//! Source: Linux `include/uapi/linux/netfilter/nf_tables.h`, `nft(8)`.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::netlink::{APPEND, Attributes, CREATE, Message, Netlink, acknowledged, attribute, attributes};

/// The table while it exists.
#[derive(Debug)]
pub(super) struct Firewall {
    socket: Netlink,
    name: String,
}

/// Where a step's probe goes, which never leaves: an address for documentation (RFC 5737) and the port that discards.
pub(super) const PROBE: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 9), 9);

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const IPV4: u8 = 2;
const OWNED: u32 = 2;

const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
const DROP: u32 = 0;

impl Firewall {
    /// For steps at `address` behind the interface `link` of this machine. `socket` has been opened in the machine's network.
    pub(super) fn put_up(socket: Netlink, link: &str, address: Ipv4Addr) -> Result<Firewall, Errno> {
        let firewall = Firewall { socket, name: link.to_owned() };
        let saddr = |rule: Rule| rule.network_header(12, &address.octets());
        let messages = [
            batch(BATCH_BEGIN),
            message(NEW_TABLE, CREATE, Attributes::new().text(1, link).big_endian(2, OWNED)),
            // before those that translate: a packet that is dropped was let through by all filters on its way
            firewall.chain("probe", "filter", POSTROUTING, 90),
            firewall.rule(
                "probe",
                saddr(Rule::new())
                    .network_header(16, &PROBE.0.octets())
                    .network_header(9, &[17])
                    .transport_header(2, &PROBE.1.to_be_bytes())
                    .expression("counter", Attributes::new())
                    .verdict(DROP),
            ),
            firewall.chain("out", "nat", POSTROUTING, 100),
            firewall.rule("out", saddr(Rule::new()).leaves_not_by(link).expression("masq", Attributes::new())),
            // nobody begins to talk to a step: no neighbour of this machine, no step of another build
            firewall.chain("in", "filter", FORWARD, 0),
            acknowledged(firewall.rule("in", Rule::new().leaves_by(link).begins().verdict(DROP))),
            batch(BATCH_END),
        ];
        firewall.socket.tell_all(&messages)?;
        Ok(firewall)
    }

    /// What it goes with.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket.into()
    }

    /// Whether a probe came through.
    pub(super) fn probed(&self) -> Result<bool, Errno> {
        const EXPRESSIONS: u16 = 4;
        let mut packets = 0;
        let wanted = Attributes::new().text(1, &self.name).text(2, "probe");
        self.socket.ask_all(&message(GET_RULE, 0, wanted), |reply| {
            let rule = attribute(reply.get(4..).unwrap_or_default(), EXPRESSIONS).unwrap_or_default();
            for (_, expression) in attributes(rule) {
                if let (Some(b"counter\0"), Some(data)) = (attribute(expression, 1), attribute(expression, 2)) {
                    let count =
                        attribute(data, 2).and_then(|count| count.first_chunk()).map_or(0, |count| u64::from_be_bytes(*count));
                    packets = packets.max(count);
                }
            }
        })?;
        Ok(packets > 0)
    }

    fn chain(&self, name: &str, kind: &str, hook: u32, priority: u32) -> Message {
        let hook = Attributes::new().big_endian(1, hook).big_endian(2, priority);
        message(NEW_CHAIN, CREATE, Attributes::new().text(1, &self.name).text(3, name).nest(4, hook).text(7, kind))
    }

    fn rule(&self, chain: &str, rule: Rule) -> Message {
        message(NEW_RULE, CREATE | APPEND, Attributes::new().text(1, &self.name).text(2, chain).nest(4, rule.0))
    }
}

fn message(kind: u16, flags: u16, attributes: Attributes) -> Message {
    Message { kind, flags, body: attributes.after(&[IPV4, 0, 0, 0]) }
}

fn batch(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message { kind, flags: 0, body: Attributes::behind(&[0, 0, high, low]) }
}

/// Expressions, each of which goes on to the next or leaves the rule.
struct Rule(Attributes);

/// Where an expression leaves what the next one compares.
const REGISTER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

impl Rule {
    fn new() -> Rule {
        Rule(Attributes::new())
    }

    fn expression(self, name: &str, data: Attributes) -> Rule {
        Rule(self.0.nest(1, Attributes::new().text(1, name).nest(2, data)))
    }

    fn network_header(self, offset: u32, bytes: &[u8]) -> Rule {
        self.header(1, offset, bytes)
    }

    fn transport_header(self, offset: u32, bytes: &[u8]) -> Rule {
        self.header(2, offset, bytes)
    }

    fn header(self, base: u32, offset: u32, bytes: &[u8]) -> Rule {
        let length = u32::try_from(bytes.len()).expect("an address or a port");
        let load = Attributes::new().big_endian(1, REGISTER).big_endian(2, base).big_endian(3, offset).big_endian(4, length);
        self.expression("payload", load).compare(EQUAL, bytes)
    }

    fn leaves_by(self, link: &str) -> Rule {
        self.out_interface(EQUAL, link)
    }

    fn leaves_not_by(self, link: &str) -> Rule {
        self.out_interface(NOT_EQUAL, link)
    }

    fn out_interface(self, how: u32, link: &str) -> Rule {
        const OUT_NAME: u32 = 7;
        let mut name = [0; 16];
        name[..link.len().min(15)].copy_from_slice(&link.as_bytes()[..link.len().min(15)]);
        self.expression("meta", Attributes::new().big_endian(1, REGISTER).big_endian(2, OUT_NAME)).compare(how, &name)
    }

    /// The first packet of a connection.
    fn begins(self) -> Rule {
        const STATE: u32 = 0;
        const NEW: u32 = 8;
        let load = Attributes::new().big_endian(1, REGISTER).big_endian(2, STATE);
        let value = |number: u32| Attributes::new().put(1, &number.to_ne_bytes());
        let mask = Attributes::new().big_endian(1, REGISTER).big_endian(2, REGISTER).big_endian(3, 4);
        self.expression("ct", load).expression("bitwise", mask.nest(4, value(NEW)).nest(5, value(0))).compare(NOT_EQUAL, &[0; 4])
    }

    fn compare(self, how: u32, bytes: &[u8]) -> Rule {
        self.expression(
            "cmp",
            Attributes::new().big_endian(1, REGISTER).big_endian(2, how).nest(3, Attributes::new().put(1, bytes)),
        )
    }

    fn verdict(self, code: u32) -> Rule {
        const VERDICT_REGISTER: u32 = 0;
        let verdict = Attributes::new().nest(2, Attributes::new().big_endian(1, code));
        self.expression("immediate", Attributes::new().big_endian(1, VERDICT_REGISTER).nest(2, verdict))
    }
}
