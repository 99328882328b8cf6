//! The command that lets a packet past a rule of another program.

use super::rules::{
    model::Tool,
    packet::{Heading, IpFamily, Packet, Way},
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
    let forwarded = match (&packet.goes_out, packet.service.as_slice(), &packet.comes_in) {
        (Way::Through(_), [to], Some(_)) => Some(to),
        _ => None,
    };
    let (address, port_of) = match packet.heading {
        Heading::ToService => ("daddr", "dport"),
        Heading::ToDevice => ("saddr", "sport"),
    };
    match (manager(hit), forwarded) {
        (Manager::Ufw, None) => match packet.heading {
            Heading::ToService => format!("ufw allow {port}/{protocol}"),
            Heading::ToDevice => {
                format!("ufw allow out proto {protocol} from any port {port}")
            }
        },
        (Manager::Ufw, Some(to)) => match packet.heading {
            Heading::ToService => {
                format!("ufw route allow proto {protocol} to {to} port {port}")
            }
            Heading::ToDevice => {
                format!("ufw route allow proto {protocol} from {to} port {port}")
            }
        },
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
                "firewall-cmd --direct --add-rule {family} filter FORWARD 0 -p {protocol} {} -j ACCEPT (and the same with --permanent)",
                iptables_match(packet, Some(to))
            )
        }
        (Manager::Docker, to) => iptables(hit, packet, "DOCKER-USER", to),
        (Manager::Iptables, to) => iptables(hit, packet, &hit.base.name, to),
        (Manager::Nft, to) => {
            let service = to
                .map(|to| format!("{} {address} {to} ", family_of(packet.family)))
                .unwrap_or_default();
            let (table, base) = (hit.table, hit.base);
            format!(
                "nft insert rule {} {} {} {service}{protocol} {port_of} {port} accept",
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
    let table = match hit.table.name.as_str() {
        "filter" => String::new(),
        table => format!(" -t {table}"),
    };
    let (protocol, ends) = (packet.protocol, iptables_match(packet, to));
    format!("{program}{table} -I {chain} -p {protocol} {ends} -j ACCEPT")
}

/// The service's address and port in iptables' words.
fn iptables_match(packet: &Packet, service: Option<&std::net::IpAddr>) -> String {
    let (address, port) = match packet.heading {
        Heading::ToService => ("-d", "--dport"),
        Heading::ToDevice => ("-s", "--sport"),
    };
    let service = service.map(|service| format!("{address} {service} ")).unwrap_or_default();
    format!("{service}{port} {}", packet.port)
}

#[cfg(test)]
mod tests {
    use super::{
        super::rules::{
            iptables,
            model::{Table, Truth},
            nft,
            packet::Layer,
            walk,
        },
        *,
    };
    use crate::gate::policy::Protocol;

    fn here(port: u16) -> Packet {
        Packet {
            heading: Heading::ToService,
            layer: Layer::Ip,
            family: IpFamily::V4,
            protocol: Protocol::Tcp,
            port,
            state: "new",
            comes_in: Some("eth0".to_owned()),
            goes_out: Way::Here,
            service: vec!["192.0.2.1".parse().unwrap()],
            translated: false,
        }
    }

    fn through(port: u16) -> Packet {
        Packet {
            goes_out: Way::Through(Some("br0".to_owned())),
            service: vec!["10.0.0.5".parse().unwrap()],
            ..here(port)
        }
    }

    fn listed(text: &str) -> Vec<Table> {
        let document = serde_json::from_str(text).unwrap();
        nft::parse(&document, &nft::elements(&document)).tables
    }

    /// The commands for all that drops the packet for sure.
    fn commands(tables: &[Table], packet: &Packet) -> Vec<String> {
        let hits = walk::drops(tables, packet);
        let sure = hits.iter().filter(|hit| hit.reach == Truth::Yes);
        sure.map(|hit| command(hit, packet)).collect()
    }

    #[test]
    fn each_manager_has_a_command_of_its_own() {
        let ufw = iptables::parse(
            include_str!("rules/tests/ufw-deny.iptables"),
            IpFamily::V4,
            Tool::IptablesNft,
        );
        assert_eq!(commands(&ufw, &here(8883)), ["ufw allow 8883/tcp"]);
        assert_eq!(
            commands(&ufw, &through(8883)),
            ["ufw route allow proto tcp to 10.0.0.5 port 8883"]
        );
        let firewalld = listed(include_str!("rules/tests/firewalld-public.json"));
        assert_eq!(
            commands(&firewalld, &here(8883)),
            [
                "firewall-cmd --zone=public --add-port=8883/tcp && firewall-cmd --permanent --zone=public --add-port=8883/tcp"
            ]
        );
        let docker = iptables::parse(
            include_str!("rules/tests/docker.iptables"),
            IpFamily::V4,
            Tool::IptablesLegacy,
        );
        assert_eq!(
            commands(&docker, &through(8883)),
            ["iptables-legacy -I DOCKER-USER -p tcp -d 10.0.0.5 --dport 8883 -j ACCEPT"]
        );
        let by_hand = listed(include_str!("rules/tests/by-hand.json"));
        let by_hand: Vec<_> = by_hand.into_iter().filter(|table| table.name == "filter").collect();
        assert_eq!(
            commands(&by_hand, &here(8883)),
            ["nft insert rule inet filter input tcp dport 8883 accept"]
        );
        assert_eq!(
            commands(&by_hand, &through(1883)),
            ["nft insert rule inet filter forward ip daddr 10.0.0.5 tcp dport 1883 accept"]
        );
    }

    #[test]
    fn a_table_of_iptables_that_is_nobody_elses_is_mended_by_the_iptables_that_made_it() {
        let saved =
            "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 8883 -j DROP\nCOMMIT\n";
        for (tool, program) in
            [(Tool::IptablesNft, "ip6tables"), (Tool::IptablesLegacy, "ip6tables-legacy")]
        {
            let tables = iptables::parse(saved, IpFamily::V6, tool);
            let packet = Packet { family: IpFamily::V6, ..here(8883) };
            assert_eq!(
                commands(&tables, &packet),
                [format!("{program} -t raw -I PREROUTING -p tcp --dport 8883 -j ACCEPT")]
            );
        }
    }
}
