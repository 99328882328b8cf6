//! What of a packet a match of nft's looks at, and the values that it compares that with.

use ipnet::IpNet;
use serde_json::Value as Json;

use super::super::model::{Condition, Field, Value};

/// Names of protocols in nft's words, with their numbers (IANA).
const PROTOCOLS: [(&str, u64); 11] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// Flags of TCP (RFC 9293, section 3.1).
pub(in super::super) const FLAGS: [(&str, u8); 8] = [
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ecn", 64),
    ("cwr", 128),
];

pub(super) fn is_fib_type(left: &Json) -> bool {
    left.get("fib").and_then(|fib| fib.get("result")).and_then(Json::as_str) == Some("type")
}

/// What is looked at, and what that alone asks of a packet already.
pub(super) fn field(left: &Json) -> Option<(Field, Vec<Condition>)> {
    let only = |field| Some((field, Vec::new()));
    if let Some(key) = left.get("meta").and_then(|meta| meta.get("key")).and_then(Json::as_str) {
        return match key {
            "l4proto" => only(Field::Protocol),
            "nfproto" | "protocol" => only(Field::Family),
            "iif" | "iifname" => only(Field::ComesIn),
            "oif" | "oifname" => only(Field::GoesOut),
            "pkttype" => only(Field::PacketType),
            _ => None,
        };
    }
    if let Some(ct) = left.get("ct") {
        return match ct.get("key").and_then(Json::as_str)? {
            "state" => only(Field::State),
            "status" => only(Field::Status),
            "direction" => only(Field::Direction),
            _ => None,
        };
    }
    if is_fib_type(left) {
        let flags = left.get("fib")?.get("flags")?.to_string();
        return only(match flags.contains("saddr") {
            true => Field::SourceType,
            false => Field::DestinationType,
        });
    }
    let payload = left.get("payload")?;
    let protocol = payload.get("protocol")?.as_str()?;
    let name = payload.get("field")?.as_str()?;
    let field = match (protocol, name) {
        ("ip", "protocol") | ("ip6", "nexthdr") => Field::Protocol,
        (_, "sport") => Field::SourcePort,
        (_, "dport") => Field::Port,
        (_, "saddr") => Field::Source,
        (_, "daddr") => Field::Destination,
        _ => return None,
    };
    Some((field, implied(protocol)))
}

/// What nft asks of a packet before it looks at a field of this protocol.
fn implied(protocol: &str) -> Vec<Condition> {
    let one = |field, value| vec![Condition::Field { field, negated: false, values: vec![value] }];
    match protocol {
        "ip" => one(Field::Family, Value::Text("ipv4".to_owned())),
        "ip6" => one(Field::Family, Value::Text("ipv6".to_owned())),
        "th" => Vec::new(),
        _ => match protocol_number(protocol) {
            Some(number) => one(Field::Protocol, Value::Number(number)),
            None => Vec::new(),
        },
    }
}

pub(super) fn unknown_field(left: &Json) -> Vec<Condition> {
    let protocol =
        left.get("payload").and_then(|payload| payload.get("protocol")).and_then(Json::as_str);
    let mut conditions = protocol.map(implied).unwrap_or_default();
    let shown: String = left.to_string().chars().take(80).collect();
    conditions.push(Condition::Unknown(shown));
    conditions
}

fn protocol_number(name: &str) -> Option<u64> {
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// An element without its timeout, counter or comment.
pub(super) fn bare(element: &Json) -> &Json {
    element.get("elem").and_then(|elem| elem.get("val")).unwrap_or(element)
}

pub(super) fn value(field: Field, json: &Json) -> Value {
    let json = bare(json);
    if let Some([from, to]) = json.get("range").and_then(Json::as_array).map(Vec::as_slice) {
        return match (value(field, from), value(field, to)) {
            (Value::Number(from), Value::Number(to)) => Value::Range(from, to),
            _ => Value::Unread,
        };
    }
    if let Some(prefix) = json.get("prefix") {
        let text = prefix.get("addr").and_then(Json::as_str).zip(prefix.get("len"));
        let net = text.and_then(|(addr, len)| format!("{addr}/{len}").parse::<IpNet>().ok());
        return net.map_or(Value::Unread, Value::Net);
    }
    if let Some(number) = json.as_u64() {
        return Value::Number(number);
    }
    let Some(text) = json.as_str() else { return Value::Unread };
    match field {
        Field::Protocol => protocol_number(text).map_or(Value::Unread, Value::Number),
        Field::Source | Field::Destination => text
            .parse::<IpNet>()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()))
            .map_or(Value::Unread, Value::Net),
        Field::Family => Value::Text(
            if text == "ip" || text == "ipv4" {
                "ipv4"
            } else if text == "ip6" || text == "ipv6" {
                "ipv6"
            } else {
                text
            }
            .to_owned(),
        ),
        _ => Value::Text(text.to_owned()),
    }
}

/// Comparisons by size, of numbers alone.
pub(super) fn ordered(field: Field, op: &str, right: &Json) -> Condition {
    let range = right.as_u64().and_then(|number| match op {
        "<" => Some((0, number.checked_sub(1)?)),
        "<=" => Some((0, number)),
        ">" => Some((number.checked_add(1)?, u64::MAX)),
        ">=" => Some((number, u64::MAX)),
        _ => None,
    });
    match range {
        Some((from, to)) => {
            Condition::Field { field, negated: false, values: vec![Value::Range(from, to)] }
        }
        None => Condition::Unknown(format!("a comparison by {op}")),
    }
}

/// TCP flags, with a mask before them or alone.
pub(super) fn tcp_flags(left: &Json, op: &str, right: &Json) -> Option<Vec<Condition>> {
    let is_flags = |it: &Json| {
        let payload = it.get("payload");
        let is =
            |key, text| payload.and_then(|it| it.get(key)).and_then(Json::as_str) == Some(text);
        is("protocol", "tcp") && is("field", "flags")
    };
    let negated = op == "!=";
    let masked = left.get("&").and_then(Json::as_array).map(Vec::as_slice);
    let flags = match (masked, op) {
        (Some([of, mask]), _) if is_flags(of) => {
            Condition::Flags { mask: flags(mask)?, value: flags(right)?, any: false, negated }
        }
        (None, "in") if is_flags(left) => {
            Condition::Flags { mask: u8::MAX, value: flags(right)?, any: true, negated: false }
        }
        (None, _) if is_flags(left) => {
            Condition::Flags { mask: u8::MAX, value: flags(right)?, any: false, negated }
        }
        _ => return None,
    };
    let mut conditions = implied("tcp");
    conditions.push(flags);
    Some(conditions)
}

fn flags(json: &Json) -> Option<u8> {
    if let Some(number) = json.as_u64() {
        return number.try_into().ok();
    }
    let flag = |name: &str| FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
    if let Some(name) = json.as_str() {
        return flag(name);
    }
    let parts = json.get("|").or_else(|| json.get("set")).unwrap_or(json).as_array()?;
    parts.iter().map(flags).try_fold(0, |all, bit| Some(all | bit?))
}
