//! Connection tracking over netlink: one dump, then a delete per stale entry. Spawning `conntrack -D` would cost a dump for
//! each entry.

use super::cleanup::{Flow, Sweep};
use super::{Conntrack, ConntrackError};
use crate::proxy::table::Family;
use crate::services::Protocol;
use bytes::BytesMut;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;

/// The kernel answers at once; a silence this long means that an answer was lost.
const LIMIT_SECONDS: i64 = 5;
/// The kernel fills messages of up to 32 KiB when the reader offers as much.
const BUFFER: usize = 64 * 1024;

/// The network namespace of the thread that sweeps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Netlink;

impl Conntrack for Netlink {
    fn sweep(&self, family: Family, sweep: &Sweep) -> Result<u64, ConntrackError> {
        let mut connection = Connection::open()?;
        let mut stale = Vec::new();
        connection.request(family, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()))?;
        connection.answers(|attributes| {
            if flow(&attributes).is_some_and(|flow| sweep.is_stale(&flow)) {
                stale.push(identity(attributes));
            }
        })?;
        let mut deleted = 0;
        for identity in stale {
            connection.request(family, NLM_F_ACK, ConntrackMessage::Delete(identity))?;
            match connection.answers(|_| {}) {
                Ok(()) => deleted += 1,
                // It has ended by itself.
                Err(ConntrackError::Refused { source }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

struct Connection {
    socket: Socket,
    buffer: BytesMut,
}

impl Connection {
    fn open() -> Result<Self, ConntrackError> {
        let open = |source| ConntrackError::Open { source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(open)?;
        socket.bind_auto().map_err(open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(open)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT_SECONDS)).map_err(|errno| open(errno.into()))?;
        Ok(Self { socket, buffer: BytesMut::with_capacity(BUFFER) })
    }

    fn request(&self, family: Family, flags: u16, message: ConntrackMessage) -> Result<(), ConntrackError> {
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|source| ConntrackError::Send { source })?;
        Ok(())
    }

    /// Reads up to the end of a dump, or up to an acknowledgement.
    fn answers(&mut self, mut each: impl FnMut(Vec<ConntrackAttribute>)) -> Result<(), ConntrackError> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(BUFFER);
            self.socket.recv(&mut self.buffer, 0).map_err(|source| ConntrackError::Receive { source })?;
            let mut rest: &[u8] = &self.buffer;
            while !rest.is_empty() {
                let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(|source| ConntrackError::Decode { source })?;
                // Messages stand at multiples of 4 bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).filter(|_| length > 0).unwrap_or(&[]);
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(ConntrackError::Refused { source: error.to_io() }),
                    NetlinkPayload::InnerMessage(message) => {
                        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                            each(attributes);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What a delete must name: the original tuple, and what distinguishes the entry from a later one of the same tuple (its
/// zone and its number).
fn identity(attributes: Vec<ConntrackAttribute>) -> Vec<ConntrackAttribute> {
    const CTA_ID: u16 = 12;
    const CTA_ZONE: u16 = 18;
    attributes
        .into_iter()
        .filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(other) => matches!(netlink_packet_core::Nla::kind(other), CTA_ID | CTA_ZONE),
            _ => false,
        })
        .collect()
}

/// None for protocols without ports.
fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let tuple = |is_original: bool| {
        attributes.iter().find_map(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) if is_original => Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) if !is_original => Some(tuple),
            _ => None,
        })
    };
    let (original, reply) = (tuple(true)?, tuple(false)?);
    let addresses = |tuple: &[Tuple]| {
        let (mut from, mut to) = (None, None);
        for part in tuple.iter().filter_map(|part| if let Tuple::Ip(parts) = part { Some(parts) } else { None }).flatten() {
            match part {
                IPTuple::SourceAddress(address) => from = Some(*address),
                IPTuple::DestinationAddress(address) => to = Some(*address),
                _ => {}
            }
        }
        Some((from?, to?))
    };
    let (mut protocol, mut port) = (None, None);
    for part in original.iter().filter_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None }).flatten() {
        match part {
            ProtoTuple::Protocol(number) => {
                protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == u8::from(*number));
            }
            ProtoTuple::DestinationPort(number) => port = Some(*number),
            _ => {}
        }
    }
    let (client, destination) = addresses(original)?;
    let (replier, _) = addresses(reply)?;
    Some(Flow { protocol: protocol?, client, destination: (destination, port?).into(), replier })
}
