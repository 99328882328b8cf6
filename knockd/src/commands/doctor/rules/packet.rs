//! A packet of a device or an answer to one, as far as it can be told before one has come: and what of a condition
//! it meets.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Condition, Field, Truth, Value};
use crate::gate::policy::Protocol;

/// TH_SYN (include/net/tcp.h): the one flag of a connection's first packet.
const SYN: u8 = 0x02;
/// SYN and TH_ACK: the flags of the answer to it.
const SYN_ACK: u8 = 0x12;
/// Where the ports begin that connections are made from, on every system that devices run (RFC 6335, section 6,
/// and what Linux takes by default: net.ipv4.ip_local_port_range).
const UNPRIVILEGED: u64 = 1024;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Heading {
    /// From a device to the service.
    ToService,
    /// From the service to a device.
    ToDevice,
}

/// Which of the kernel's hooks a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Layer {
    /// Those of IP, and of the interfaces themselves.
    Ip,
    /// Those of a bridge, whose ports the interfaces are.
    Bridge,
}

/// A packet between a service and a device somewhere outside, whose address isn't known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Packet {
    pub(in super::super) heading: Heading,
    pub(in super::super) layer: Layer,
    pub(in super::super) family: IpFamily,
    pub(in super::super) protocol: Protocol,
    /// The service's.
    pub(in super::super) port: u16,
    /// conntrack's state of it, in nft's words: "new", or "untracked" for a knock.
    pub(in super::super) state: &'static str,
    /// By which interface it comes in; none for one that this host sends.
    pub(in super::super) comes_in: Option<String>,
    /// By which interface it leaves, if it does; `None` inside if that isn't known.
    pub(in super::super) goes_out: Way,
    /// The service's addresses.
    pub(in super::super) service: Vec<IpAddr>,
    /// Whether its destination was translated.
    pub(in super::super) translated: bool,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// To this host itself.
    Here,
    /// Through it, out by this interface if that is known.
    Through(Option<String>),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub(in super::super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// What a condition comes to, and why it can't be judged if it can't.
pub(in super::super) fn meets(
    packet: &Packet,
    condition: &Condition,
    doubts: &mut Vec<Doubt>,
) -> Truth {
    match condition {
        Condition::Known(is) => Truth::of(*is),
        Condition::Unknown(what) => {
            doubts.push(Doubt::Other(what.clone()));
            Truth::Maybe
        }
        Condition::Flags { mask, value, any, negated } => {
            let flags = match packet.heading {
                Heading::ToService => SYN,
                Heading::ToDevice => SYN_ACK,
            };
            let masked = flags & mask;
            let is = if *any { masked & value != 0 } else { masked == *value };
            Truth::of(is != *negated)
        }
        Condition::AnyOf { negated, of } => {
            let any = of.iter().map(|all| meets_all(packet, all, doubts)).max();
            negate(any.unwrap_or(Truth::No), *negated)
        }
        Condition::Field { field, negated, values } => {
            let any = values.iter().map(|value| is(packet, *field, value)).max();
            let truth = negate(any.unwrap_or(Truth::No), *negated);
            if truth == Truth::Maybe {
                doubts.push(Doubt::of(*field, packet.heading));
            }
            truth
        }
    }
}

/// What several conditions come to that must all be met.
pub(in super::super) fn meets_all(
    packet: &Packet,
    conditions: &[Condition],
    doubts: &mut Vec<Doubt>,
) -> Truth {
    let mut own = Vec::new();
    let all = conditions.iter().map(|condition| meets(packet, condition, &mut own)).min();
    let truth = all.unwrap_or(Truth::Yes);
    if truth == Truth::Maybe {
        doubts.append(&mut own);
    }
    truth
}

/// Why something can't be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Doubt {
    /// It depends on which device it is.
    Device,
    /// It depends on something else.
    Other(String),
}

impl Doubt {
    fn of(field: Field, heading: Heading) -> Self {
        match (field, heading) {
            (Field::Source | Field::SourcePort | Field::SourceType, Heading::ToService)
            | (Field::Destination | Field::Port | Field::DestinationType, Heading::ToDevice) => {
                Self::Device
            }
            (Field::Destination, _) => Self::Other("the address that it is sent to".to_owned()),
            (Field::Source, _) => Self::Other("the address that it is sent from".to_owned()),
            (Field::GoesOut, _) => Self::Other("the interface that it leaves by".to_owned()),
            (field, _) => Self::Other(format!("a set that wasn't read ({field:?})")),
        }
    }
}

const fn negate(truth: Truth, negated: bool) -> Truth {
    if negated { truth.not() } else { truth }
}

fn is(packet: &Packet, field: Field, value: &Value) -> Truth {
    if *value == Value::Unread {
        return Truth::Maybe;
    }
    match field {
        Field::Family => text(value, packet.family.name()),
        Field::Protocol => number(value, u64::from(packet.protocol.number())),
        Field::Port => match packet.heading {
            Heading::ToService => number(value, u64::from(packet.port)),
            Heading::ToDevice => devices_port(value),
        },
        Field::SourcePort => match packet.heading {
            Heading::ToService => devices_port(value),
            Heading::ToDevice => number(value, u64::from(packet.port)),
        },
        Field::Source => match packet.heading {
            Heading::ToService => devices_address(value, packet),
            Heading::ToDevice => services_address(value, packet),
        },
        Field::Destination => match packet.heading {
            Heading::ToService => services_address(value, packet),
            Heading::ToDevice => devices_address(value, packet),
        },
        Field::ComesIn => match &packet.comes_in {
            None => Truth::No,
            Some(name) => interface(value, name),
        },
        Field::GoesOut => match &packet.goes_out {
            Way::Here => Truth::No,
            Way::Through(None) => Truth::Maybe,
            Way::Through(Some(name)) => interface(value, name),
        },
        Field::State => text(value, packet.state),
        Field::Status => match packet.translated {
            true => text(value, "dnat"),
            false => Truth::No,
        },
        Field::Direction => match packet.heading {
            Heading::ToService => text(value, "original"),
            Heading::ToDevice => text(value, "reply"),
        },
        Field::DestinationType => match packet.goes_out {
            Way::Here => text(value, "local"),
            Way::Through(_) => text(value, "unicast"),
        },
        Field::SourceType => match packet.comes_in {
            None => text(value, "local"),
            Some(_) => text(value, "unicast"),
        },
        Field::PacketType => text(value, "host"),
    }
}

fn text(value: &Value, is: &str) -> Truth {
    Truth::of(matches!(value, Value::Text(text) if text == is))
}

fn number(value: &Value, is: u64) -> Truth {
    match value {
        Value::Number(number) => Truth::of(*number == is),
        Value::Range(from, to) => Truth::of((*from..=*to).contains(&is)),
        Value::Text(_) | Value::Net(_) | Value::Unread => Truth::Maybe,
    }
}

fn devices_port(value: &Value) -> Truth {
    let (from, to) = match value {
        Value::Number(number) => (*number, *number),
        Value::Range(from, to) => (*from, *to),
        Value::Text(_) | Value::Net(_) | Value::Unread => return Truth::Maybe,
    };
    match (from <= UNPRIVILEGED && to >= u64::from(u16::MAX), to < UNPRIVILEGED) {
        (true, _) => Truth::Yes,
        (_, true) => Truth::No,
        _ => Truth::Maybe,
    }
}

/// A device is somewhere outside: not on this host, and no group of hosts.
fn devices_address(value: &Value, packet: &Packet) -> Truth {
    let Value::Net(net) = value else { return Truth::Maybe };
    if IpFamily::of(net.addr()) != packet.family {
        return Truth::No;
    }
    let address = net.network();
    let is_nobodys = address.is_loopback() || address.is_multicast() || is_this_host(*net, packet);
    match net.prefix_len() {
        0 => Truth::Yes,
        _ if is_nobodys || (address.is_unspecified() && net.prefix_len() >= 8) => Truth::No,
        _ => Truth::Maybe,
    }
}

fn is_this_host(net: IpNet, packet: &Packet) -> bool {
    net.prefix_len() == net.max_prefix_len() && packet.service.contains(&net.addr())
}

fn services_address(value: &Value, packet: &Packet) -> Truth {
    let Value::Net(net) = value else { return Truth::Maybe };
    let inside = packet.service.iter().filter(|address| net.contains(*address)).count();
    match inside {
        0 => Truth::No,
        all if all == packet.service.len() => Truth::Yes,
        _ => Truth::Maybe,
    }
}

fn interface(value: &Value, name: &str) -> Truth {
    match value {
        Value::Text(pattern) => Truth::of(match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        }),
        _ => Truth::Maybe,
    }
}
