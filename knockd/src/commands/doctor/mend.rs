//! The command that lets a packet past a rule of another program.

use super::rules::{
    model::Tool,
    packet::{IpFamily, Packet, Way},
    walk::Hit,
};

/// Who manages a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Ufw,
    /// With the zone whose chain drops, if one does.
    Firewalld {
        zone: Option<String>,
    },
    Docker,
    Iptables,
    Nft,
}

/// Who manages the table of this drop: told by its chains.
pub(super) fn manager(hit: &Hit<'_>) -> Manager {
    let table = hit.table;
    let has = |start: &str| table.chains.iter().any(|chain| chain.name.starts_with(start));
    if table.name == "firewalld" {
        let chain = hit.rule.map(|(chain, _)| chain.name.as_str()).unwrap_or_default();
        let zone = chain.strip_prefix("filter_IN_").filter(|zone| !zone.starts_with("policy_"));
        return Manager::Firewalld { zone: zone.map(|zone| trimmed(zone).to_owned()) };
    }
    let through_here = hit.base.name == "FORWARD";
    if has("DOCKER-USER") && through_here {
        return Manager::Docker;
    }
    if has("ufw-") || has("ufw6-") {
        return Manager::Ufw;
    }
    match table.tool {
        Tool::IptablesNft | Tool::IptablesLegacy => Manager::Iptables,
        // As iptables makes them, where it isn't there any more to tell its rules.
        Tool::Nft if hit.base.name == hit.base.name.to_uppercase() && table.family != "inet" => {
            Manager::Iptables
        }
        Tool::Nft => Manager::Nft,
    }
}

/// A zone's chains: its own, and one for each of its parts.
fn trimmed(zone: &str) -> &str {
    ["_pre", "_log", "_deny", "_allow", "_post"]
        .iter()
        .find_map(|end| zone.strip_suffix(end))
        .unwrap_or(zone)
}

/// The command.
pub(super) fn command(hit: &Hit<'_>, packet: &Packet) -> String {
    let Packet { protocol, port, .. } = packet;
    let forwarded = match (&packet.goes_out, packet.to.as_slice()) {
        (Way::Through(_), [to]) => Some(to),
        _ => None,
    };
    match (manager(hit), forwarded) {
        (Manager::Ufw, None) => format!("ufw allow {port}/{protocol}"),
        (Manager::Ufw, Some(to)) => {
            format!("ufw route allow proto {protocol} to {to} port {port}")
        }
        (Manager::Firewalld { zone }, None) => {
            let zone = zone.map(|zone| format!(" --zone={zone}")).unwrap_or_default();
            format!(
                "firewall-cmd{zone} --add-port={port}/{protocol} && firewall-cmd --permanent{zone} --add-port={port}/{protocol}"
            )
        }
        (Manager::Firewalld { .. }, Some(to)) => {
            let family = match packet.family {
                IpFamily::V4 => "ipv4",
                IpFamily::V6 => "ipv6",
            };
            format!(
                "firewall-cmd --direct --add-rule {family} filter FORWARD 0 -p {protocol} -d {to} --dport {port} -j ACCEPT (and the same with --permanent)"
            )
        }
        (Manager::Docker, to) => iptables(hit, packet, "DOCKER-USER", to),
        (Manager::Iptables, to) => iptables(hit, packet, &hit.base.name, to),
        (Manager::Nft, to) => {
            let daddr = to
                .map(|to| format!("{} daddr {to} ", family_of(packet.family)))
                .unwrap_or_default();
            let (table, base) = (hit.table, hit.base);
            format!(
                "nft insert rule {} {} {} {daddr}{protocol} dport {port} accept",
                table.family, table.name, base.name
            )
        }
    }
}

const fn family_of(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn iptables(hit: &Hit<'_>, packet: &Packet, chain: &str, to: Option<&std::net::IpAddr>) -> String {
    let program = match (packet.family, hit.table.tool) {
        (IpFamily::V4, Tool::IptablesLegacy) => "iptables-legacy",
        (IpFamily::V6, Tool::IptablesLegacy) => "ip6tables-legacy",
        (IpFamily::V4, _) => "iptables",
        (IpFamily::V6, _) => "ip6tables",
    };
    let Packet { protocol, port, .. } = packet;
    let daddr = to.map(|to| format!(" -d {to}")).unwrap_or_default();
    let table = match hit.table.name.as_str() {
        "filter" => String::new(),
        table => format!(" -t {table}"),
    };
    format!("{program}{table} -I {chain}{daddr} -p {protocol} --dport {port} -j ACCEPT")
}
