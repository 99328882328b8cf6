//! Containers and virtual machines on this host: ports that are published past the door, and who of them can't
//! get to a guarded port.

use std::{fs, net::IpAddr, num::NonZeroU16};

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::{
        model::{Condition, Field, Rule, Table, Truth, Value, Verdict},
        packet::IpFamily,
        walk,
    },
    ways,
};
use crate::{
    config::Config,
    gate::policy::{Port, Protocol},
};

/// A port of this host that leads to an address behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Published {
    port: Port,
    to: IpAddr,
    to_port: u16,
}

/// Checks that no port leads past the door to where a guarded one leads.
pub(super) fn published(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, rules) = (examined.config()?, examined.rules()?);
    let all = all_published(&rules.tables);
    let (guarded, open): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|published| is_guarded(published.port, config));
    for published in &guarded {
        if let Some(finding) = reached_directly(examined, *published)? {
            findings.add(finding);
        }
    }
    for Published { port, to, to_port } in open {
        let past = guarded.iter().find(|door| {
            door.to == to && door.to_port == to_port && door.port.protocol == port.protocol
        });
        let behind = config.policy.services.iter().find(|service| {
            service.to.contains(&to)
                && service
                    .ports
                    .iter()
                    .any(|it| it.protocol == port.protocol && it.number.get() == to_port)
        });
        let mend = format!(
            "add \"{port}\" to the `ports` of the service in knockd.toml, and run `knockd firewall install`; or publish it on 127.0.0.1 only"
        );
        let finding = match (past, behind) {
            (Some(door), _) => Finding::fault(
                "published-past-the-door",
                format!(
                    "{port} is published, guarded by no service, and leads to {to} port {to_port}, as {} does that is guarded: a way past the door",
                    door.port
                ),
            ),
            (None, Some(service)) => Finding::fault(
                "published-past-the-door",
                format!(
                    "{port} is published, guarded by no service, and leads to {to} port {to_port}, which service {} guards: a way past the door",
                    service.name
                ),
            ),
            (None, None) => Finding::note(
                "published-unguarded",
                format!(
                    "{port} is published to everybody, and leads to {to} port {to_port}: no service guards it"
                ),
            ),
        };
        findings.add(finding.mend(mend));
    }
    Ok(())
}

/// Whether a neighbour can send to a container's own address, past the door that guards the port it is published
/// at: whoever is on one of this host's networks needs but a route for that.
fn reached_directly(
    examined: &Examined,
    Published { port, to, to_port }: Published,
) -> Result<Option<Finding>, Unable> {
    let (host, rules) = (examined.host()?, examined.rules()?);
    let inner = host.towards(to).map(|interface| interface.name.as_str());
    let Some(number) = NonZeroU16::new(to_port) else { return Ok(None) };
    if !forwards(IpFamily::of(to)) {
        return Ok(None);
    }
    let direct = Port { protocol: port.protocol, number };
    for interface in host.outside() {
        let packet = ways::packet(direct, "new", interface, IpFamily::of(to), Some(to), host);
        let is_dropped = || {
            let hits = walk::drops(&rules.tables, &packet);
            hits.iter().any(|hit| hit.reach == Truth::Yes)
        };
        if inner == Some(interface.name.as_str()) || is_dropped() {
            continue;
        }
        let (protocol, name) = (port.protocol, &interface.name);
        let program = if to.is_ipv4() { "iptables" } else { "ip6tables" };
        return Ok(Some(
            Finding::warning(
                "container-reached-directly",
                format!("{port} is guarded and leads to {to} port {to_port}; that address itself isn't: who is on the network of {name} and routes it by this host gets there without a knock"),
            )
            .mend(format!("{program} -t raw -I PREROUTING -i {name} -d {to} -p {protocol} --dport {to_port} -j DROP")),
        ));
    }
    Ok(None)
}

/// Whether this host forwards packets at all (ip-sysctl.rst).
fn forwards(family: IpFamily) -> bool {
    let path = match family {
        IpFamily::V4 => "/proc/sys/net/ipv4/ip_forward",
        IpFamily::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

fn is_guarded(port: Port, config: &Config) -> bool {
    let here = config.policy.services.iter().filter(|service| service.to.is_empty());
    here.flat_map(|service| &service.ports).any(|guarded| *guarded == port)
}

fn all_published(tables: &[Table]) -> Vec<Published> {
    let mut all = Vec::new();
    let rules = tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    for rule in rules {
        let Some(Verdict::Translate { to: Some(to), port }) = rule.verdict else { continue };
        // A port of this host's loopback addresses is nobody's from outside.
        let local = rule.conditions.iter().any(|condition| {
            matches!(condition, Condition::Field { field: Field::Destination, negated: false, values }
                if values.iter().all(|it| matches!(it, Value::Net(net) if net.addr().is_loopback())))
        });
        for from in ports(rule).into_iter().filter(|_| !local) {
            let to_port = port.unwrap_or(from.number.get());
            let published = Published { port: from, to, to_port };
            if !all.contains(&published) {
                all.push(published);
            }
        }
    }
    all
}

/// The single ports that a rule names, each with its protocol.
fn ports(rule: &Rule) -> Vec<Port> {
    let values = |wanted: Field| {
        rule.conditions.iter().find_map(move |condition| match condition {
            Condition::Field { field, negated: false, values } if *field == wanted => Some(values),
            _ => None,
        })
    };
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        Value::Range(from, to) if from == to => Some(*from),
        _ => None,
    };
    let protocols = values(Field::Protocol).into_iter().flatten().filter_map(number);
    let protocols: Vec<_> =
        protocols.filter_map(|number| Protocol::from_number(number.try_into().ok()?)).collect();
    let numbers = values(Field::Port).into_iter().flatten().filter_map(number);
    let numbers = numbers.filter_map(|number| u16::try_from(number).ok()?.try_into().ok());
    numbers
        .flat_map(|number| {
            protocols.iter().map(move |protocol| Port { protocol: *protocol, number })
        })
        .collect()
}

/// Checks whether containers on this host have to knock, which none of them does.
pub(super) fn forgotten(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host) = (examined.config()?, examined.host()?);
    for bridge in host.interfaces.iter().filter(|interface| interface.is_bridge()) {
        let by_name = config.allow.interfaces.iter().any(|name| name.as_str() == bridge.name);
        let by_network = !bridge.addresses.is_empty()
            && bridge.addresses.iter().all(|net| {
                config.allow.networks.iter().any(|allowed| allowed.contains(&net.trunc()))
            });
        if by_name || by_network {
            continue;
        }
        let interfaces: Vec<String> = config
            .allow
            .interfaces
            .iter()
            .map(|name| format!("\"{name}\""))
            .chain([format!("\"{}\"", bridge.name)])
            .collect();
        findings.add(
            Finding::note(
                "containers-must-knock",
                format!("what runs behind {} can't get to a guarded port of this host without a knock: [allow] doesn't name it", bridge.name),
            )
            .at("[allow] in knockd.toml")
            .mend(format!("if it ought to: write interfaces = [{}], and run `knockd firewall install`", interfaces.join(", "))),
        );
    }
    Ok(())
}
