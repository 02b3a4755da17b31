//! Netlink as far as a network needs it: messages made of attributes, acknowledged one by one or in a batch.
//!
//! Source: `netlink(7)`, `rtnetlink(7)`, Linux `include/uapi/linux/netlink.h`.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// A reply is wanted.
const REQUEST: u16 = 0x1;
/// Even if there is nothing to tell.
const ACK: u16 = 0x4;
/// Of all objects.
pub(super) const DUMP: u16 = 0x300;
/// What exists is a failure.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// What does not exist is made.
pub(super) const CREATE: u16 = 0x400;
/// Behind what is there.
pub(super) const APPEND: u16 = 0x800;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
/// Marks an attribute that holds others.
const NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;

/// Attributes, each aligned to four bytes.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Attributes {
        Attributes::default()
    }

    /// Attributes behind a header that some of them have inside.
    pub(super) fn behind(header: &[u8]) -> Attributes {
        Attributes(header.to_vec())
    }

    /// The same behind a header.
    pub(super) fn after(mut self, header: &[u8]) -> Attributes {
        self.0.splice(..0, header.iter().copied());
        self
    }

    pub(super) fn put(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = u16::try_from(4 + value.len()).expect("our attributes are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Attributes {
        self.put(kind, format!("{value}\0").as_bytes())
    }

    /// In the network's byte order, as netfilter has it.
    pub(super) fn big_endian(self, kind: u16, value: u32) -> Attributes {
        self.put(kind, &value.to_be_bytes())
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Attributes {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: Attributes) -> Attributes {
        self.put(kind | NESTED, &inner.0)
    }
}

/// The attributes in `bytes`: kind and value; what is cut short ends the list.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.first_chunk::<4>()?;
        let (length, kind) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let value = rest.get(4..usize::from(length))?;
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// The value of the first attribute of this kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in the machine's byte order.
pub(super) fn as_number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// One message without its sequence number.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// The family's own header and the attributes.
    pub(super) body: Attributes,
}

/// A socket to one part of the kernel, in the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl From<Netlink> for OwnedFd {
    fn from(netlink: Netlink) -> OwnedFd {
        netlink.socket
    }
}

impl Netlink {
    /// To interfaces, addresses and routes.
    pub(super) fn route() -> Result<Netlink, Errno> {
        Netlink::open(None)
    }

    /// To packet filters.
    pub(super) fn netfilter() -> Result<Netlink, Errno> {
        Netlink::open(Some(NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Netlink, Errno> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Netlink { socket })
    }

    /// Has the kernel do something.
    pub(super) fn tell(&self, message: &Message) -> Result<(), Errno> {
        self.send(&[Message { flags: message.flags | ACK, ..message.clone() }])?;
        self.replies(|_| {})
    }

    /// Has the kernel do all of it or nothing.
    pub(super) fn tell_all(&self, messages: &[Message]) -> Result<(), Errno> {
        self.send(messages)?;
        self.replies(|_| {})
    }

    /// Asks for one object; gives the reply behind its header.
    pub(super) fn ask(&self, message: &Message) -> Result<Vec<u8>, Errno> {
        let mut first = None;
        self.send(&[Message { flags: message.flags | ACK, ..message.clone() }])?;
        self.replies(|body| first = first.take().or_else(|| Some(body.to_vec())))?;
        first.ok_or(Errno::NOENT)
    }

    /// Asks for all objects; passes each reply to `then`.
    pub(super) fn ask_all(&self, message: &Message, then: impl FnMut(&[u8])) -> Result<(), Errno> {
        self.send(&[Message { flags: message.flags | DUMP, ..message.clone() }])?;
        self.replies(then)
    }

    fn send(&self, messages: &[Message]) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        for (sequence, Message { kind, flags, body }) in (1_u32..).zip(messages) {
            let length = u32::try_from(HEADER_BYTES + body.0.len()).expect("our messages are short");
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&0_u32.to_ne_bytes());
            bytes.extend_from_slice(&body.0);
        }
        rustix::io::retry_on_intr(|| send(&self.socket, &bytes, SendFlags::empty()))?;
        Ok(())
    }

    /// Passes what comes to `then` until an acknowledgement, the end of a list, or a failure.
    fn replies(&self, mut then: impl FnMut(&[u8])) -> Result<(), Errno> {
        // as much as the kernel puts into one message
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (_, count) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::empty()))?;
            let mut rest = buffer.get(..count).ok_or(Errno::MSGSIZE)?;
            while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
                let length = usize::try_from(u32::from_ne_bytes([head[0], head[1], head[2], head[3]])).unwrap_or(usize::MAX);
                let body = rest.get(HEADER_BYTES..length).ok_or(Errno::BADMSG)?;
                match u16::from_ne_bytes([head[4], head[5]]) {
                    TYPE_ERROR => match as_number(body).ok_or(Errno::BADMSG)?.cast_signed() {
                        0 => return Ok(()),
                        error => return Err(Errno::from_raw_os_error(error.wrapping_neg())),
                    },
                    TYPE_DONE => return Ok(()),
                    _ => then(body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// For the one message of a batch that is answered.
pub(super) fn acknowledged(message: Message) -> Message {
    Message { flags: message.flags | ACK, ..message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back() {
        let inner = Attributes::new().text(7, "lo").number(8, 5);
        let all = Attributes::new().put(1, &[1, 2, 3]).nest(2, inner);
        assert_eq!(all.0.len() % 4, 0);
        assert_eq!(attribute(&all.0, 1), Some(&[1, 2, 3][..]));
        let inner = attribute(&all.0, 2).expect("nested");
        assert_eq!(attribute(inner, 7), Some(&b"lo\0"[..]));
        assert_eq!(attribute(inner, 8).and_then(as_number), Some(5));
        assert_eq!(attribute(inner, 9), None);
        // cut short: no panic, no attribute
        assert_eq!(attributes(&all.0[..6]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
