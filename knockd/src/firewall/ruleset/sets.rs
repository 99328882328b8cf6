//! The table's sets: doors, bans and tags, which the daemon keeps, and what is guarded, which follows from the
//! configuration.

use std::net::IpAddr;

use super::{BAN4, BAN6, BLOCK4, BLOCK6, Contents, DOOR4, DOOR6, Plan, Prefilter, Set, TAGS};
use crate::gate::{
    bans::Bans,
    grants::Grants,
    policy::{Port, Service},
};

/// How often the kernel looks through sets for elements whose time is over. It goes through all of them at once, in
/// tenths of a microsecond for each, in which that core does nothing else; unless told otherwise, every second. What
/// is over doesn't match from that moment on, and takes room until then.
const DOORS_CLEARED: &str = "gc-interval 10s";
const TAGS_CLEARED: &str = "gc-interval 10m";

/// The sets of a plan.
pub(super) fn of(plan: &Plan<'_>) -> Vec<Set> {
    let services = plan.services;
    let size = Grants::MAX;
    let kept = |name, definition| Set { name, definition, contents: Contents::Kept };
    let fixed = |name, definition: &str, elements: Vec<String>| Set {
        name,
        definition: definition.to_owned(),
        contents: Contents::Fixed(elements),
    };
    let door = |address: &str| {
        format!(
            "type {address} . inet_proto . inet_service; flags timeout; timeout 30s; {DOORS_CLEARED}; size {size};"
        )
    };
    let ban =
        |address: &str| format!("type {address}; flags timeout; timeout 6h; size {};", Bans::MAX);
    vec![
        kept(BAN4, ban("ipv4_addr")),
        kept(BAN6, ban("ipv6_addr")),
        kept(BLOCK4, ban("ipv4_addr")),
        kept(BLOCK6, ban("ipv6_addr")),
        kept(DOOR4, door("ipv4_addr")),
        kept(DOOR6, door("ipv6_addr")),
        kept(
            TAGS,
            format!(
                "typeof @th,64,64; flags timeout; timeout 2d; {TAGS_CLEARED}; size {};",
                tags(plan.prefilter)
            ),
        ),
        fixed("protected", "type inet_proto . inet_service;", protected(services)),
        fixed(
            "routed4",
            "type ipv4_addr . inet_proto . inet_service;",
            routed(services, IpAddr::is_ipv4),
        ),
        fixed(
            "routed6",
            "type ipv6_addr . inet_proto . inet_service;",
            routed(services, IpAddr::is_ipv6),
        ),
    ]
}

/// Room for the tags of three days: near midnight two count, and around noon a third with the largest skew. A
/// client whose key is being changed has two a day.
fn tags(prefilter: Prefilter) -> usize {
    let clients = match prefilter {
        Prefilter::On { clients, .. } => clients,
        Prefilter::Off => 0,
    };
    (3 * 2 * clients).next_power_of_two().max(1 << 18)
}

/// The ports of services on this host, Docker-published ones too.
fn protected(services: &[Service]) -> Vec<String> {
    let ports =
        services.iter().filter(|service| service.to.is_empty()).flat_map(|service| &service.ports);
    sorted(ports.map(element).collect())
}

/// The addresses and ports of services behind this host.
fn routed(services: &[Service], of_family: fn(&IpAddr) -> bool) -> Vec<String> {
    let elements = services.iter().flat_map(|service| {
        service.to.iter().filter(|to| of_family(to)).flat_map(|to| {
            service.ports.iter().map(move |port| format!("{to} . {}", element(port)))
        })
    });
    sorted(elements.collect())
}

fn element(port: &Port) -> String {
    format!("{} . {}", port.protocol, port.number)
}

pub(super) fn sorted(mut elements: Vec<String>) -> Vec<String> {
    elements.sort();
    elements.dedup();
    elements
}
