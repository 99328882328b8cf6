//! Packets through rulesets as these programs really list them: ufw 0.36, firewalld 1.3, iptables 1.8.9 as Docker
//! calls it, and nft 1.0.6, each run in a network namespace. Counters and what no packet from outside meets are
//! left out.

use std::net::IpAddr;

use serde_json::Value as Json;

use super::{
    iptables,
    model::{Effect, Table, Tool, Truth},
    nft,
    packet::{Doubt, Heading, IpFamily, Layer, Packet, Way},
    walk::{self, Hit},
};
use crate::gate::policy::Protocol;

fn document(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn listed(text: &str) -> Vec<Table> {
    let document = document(text);
    nft::parse(&document, &nft::elements(&document)).tables
}

/// Tables of iptables on nftables, with the same in iptables' words.
fn listed_and_saved(text: &str, saved: &str) -> Vec<Table> {
    let mut tables = listed(text);
    for table in iptables::parse(saved, IpFamily::V4, Tool::IptablesNft) {
        nft::replace(&mut tables, table);
    }
    tables
}

/// One table is dormant.
fn by_hand() -> Vec<Table> {
    let mut tables = listed(include_str!("tests/by-hand.json"));
    tables.retain(|table| table.name != "asleep");
    tables
}

fn packet(protocol: Protocol, port: u16) -> Packet {
    Packet {
        heading: Heading::ToService,
        layer: Layer::Ip,
        family: IpFamily::V4,
        protocol,
        port,
        state: if protocol == Protocol::Udp { "untracked" } else { "new" },
        comes_in: Some("eth0".to_owned()),
        goes_out: Way::Here,
        service: vec!["10.77.0.1".parse().unwrap()],
        translated: false,
    }
}

fn tcp(port: u16) -> Packet {
    packet(Protocol::Tcp, port)
}

fn knock() -> Packet {
    packet(Protocol::Udp, 62201)
}

/// Chain and handle of each drop, and whether it is sure.
fn drops(tables: &[Table], packet: &Packet) -> Vec<(String, Option<u64>, Truth)> {
    let place = |hit: &Hit<'_>| match hit.rule {
        Some((chain, rule)) => (chain.name.clone(), rule.handle, hit.reach),
        None => (format!("{} policy", hit.base.name), None, hit.reach),
    };
    walk::drops(tables, packet).iter().map(place).collect()
}

fn policy_of(chain: &str) -> (String, Option<u64>, Truth) {
    (format!("{chain} policy"), None, Truth::Yes)
}

const UFW: &str = include_str!("tests/ufw.json");
const UFW_DENY: &str = include_str!("tests/ufw-deny.iptables");
const UFW_ALLOW: &str = include_str!("tests/ufw-allow.iptables");

#[test]
fn ufws_policy_drops_what_isnt_allowed_and_nothing_drops_what_is() {
    let deny = listed_and_saved(UFW, UFW_DENY);
    assert_eq!(drops(&deny, &tcp(8883)), [policy_of("INPUT")]);
    assert_eq!(drops(&deny, &knock()), [policy_of("INPUT")]);
    assert_eq!(drops(&deny, &tcp(22)), []);
    let allow = listed_and_saved(UFW, UFW_ALLOW);
    for packet in [tcp(8883), knock()] {
        assert_eq!(drops(&allow, &packet), [], "{packet:?}");
    }
    assert_eq!(drops(&allow, &tcp(1883)), [policy_of("INPUT")]);
}

#[test]
fn a_rule_has_the_handle_that_nft_lists_and_the_text_that_iptables_saves() {
    let tables = listed_and_saved(UFW, UFW_DENY);
    let allow =
        tables.iter().flat_map(|table| &table.chains).find(|it| it.name == "ufw-user-input");
    let [rule] = allow.unwrap().rules.as_slice() else { panic!("{allow:?}") };
    assert_eq!(rule.handle, Some(93));
    assert_eq!(rule.text.as_deref(), Some("-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT"));
}

#[test]
fn what_iptables_alone_can_tell_is_a_doubt_where_it_isnt_there() {
    let tables = listed(UFW);
    let hits = walk::drops(&tables, &tcp(8883));
    assert!(!hits.is_empty());
    assert!(hits.iter().all(|hit| hit.reach == Truth::Maybe), "{hits:?}");
    let doubts: Vec<_> = hits.iter().flat_map(|hit| &hit.doubts).collect();
    let is_of_iptables =
        |doubt: &&Doubt| matches!(doubt, Doubt::Other(text) if text.contains("iptables"));
    assert!(doubts.iter().any(is_of_iptables), "{doubts:?}");
}

#[test]
fn firewalld_rejects_what_the_zone_of_the_interface_doesnt_allow() {
    let public = listed(include_str!("tests/firewalld-public.json"));
    for packet in [tcp(8883), knock()] {
        let found = drops(&public, &packet);
        assert_eq!(found, [("filter_IN_public".to_owned(), Some(72), Truth::Yes)], "{packet:?}");
        assert!(walk::drops(&public, &packet).iter().all(|hit| hit.answers));
    }
    assert_eq!(drops(&public, &tcp(22)), []);
    let allow = listed(include_str!("tests/firewalld-allow.json"));
    for family in [IpFamily::V4, IpFamily::V6] {
        for packet in [tcp(8883), knock()] {
            let packet = Packet { family, ..packet };
            assert_eq!(drops(&allow, &packet), [], "{packet:?}");
        }
    }
}

#[test]
fn a_port_that_docker_publishes_is_led_to_the_container_and_let_through_to_it_alone() {
    let tables =
        listed_and_saved(include_str!("tests/docker.json"), include_str!("tests/docker.iptables"));
    let translation = |packet: &Packet| {
        let bases = walk::bases(&tables, packet, "prerouting");
        bases
            .into_iter()
            .find_map(|(table, chain, _)| walk::through(table, chain, packet).translation)
    };
    let container: IpAddr = "172.17.0.2".parse().unwrap();
    let found = translation(&tcp(8883)).unwrap();
    assert_eq!((found.to, found.port, found.reach), (Some(container), Some(8883), Truth::Yes));
    assert_eq!(translation(&tcp(22)), None);
    let from_inside = Packet { comes_in: Some("docker0".to_owned()), ..tcp(8883) };
    assert_eq!(translation(&from_inside), None);

    let through = Packet {
        goes_out: Way::Through(Some("docker0".to_owned())),
        service: vec![container],
        translated: true,
        ..tcp(8883)
    };
    assert_eq!(drops(&tables, &through), []);
    let other = Packet { port: 5432, ..through.clone() };
    assert_eq!(drops(&tables, &other), [policy_of("FORWARD")]);
    let unknown_way = Packet { goes_out: Way::Through(None), ..through };
    let found = drops(&tables, &unknown_way);
    assert!(found.iter().all(|(.., reach)| *reach == Truth::Maybe), "{found:?}");
}

#[test]
fn a_ruleset_written_by_hand_is_judged_by_its_sets_maps_concatenations_and_flags() {
    let tables = by_hand();
    let sure = |packet: &Packet| {
        let mut found = drops(&tables, packet);
        found.retain(|(.., reach)| *reach == Truth::Yes);
        found
    };
    // The set of blocked senders may hold any device; nothing else drops these.
    for packet in [tcp(22), tcp(8050), tcp(443), tcp(8884), knock()] {
        assert_eq!(sure(&packet), []);
        let hits = walk::drops(&tables, &packet);
        assert!(hits.iter().all(|hit| hit.some_devices), "{packet:?}: {hits:?}");
    }
    assert_eq!(sure(&tcp(8883)), [policy_of("input")]);
    assert_eq!(sure(&tcp(8101)), [policy_of("input")]);
    assert_eq!(sure(&packet(Protocol::Udp, 8884)), [policy_of("input")]);
    // It returns from there, and its way ends at the policy.
    assert_eq!(sure(&tcp(1883)), [policy_of("input")]);
    let by_another = Packet { comes_in: Some("eth1".to_owned()), ..tcp(443) };
    assert_eq!(sure(&by_another), [policy_of("input")]);
    let rejected = sure(&tcp(7000));
    assert!(
        matches!(rejected.as_slice(), [(chain, Some(_), _)] if chain == "input"),
        "{rejected:?}"
    );
}

#[test]
fn a_knock_isnt_new_to_conntrack_and_a_rule_for_new_packets_doesnt_let_it_in() {
    let tables = by_hand();
    let dropped = |packet: &Packet| drops(&tables, packet).contains(&policy_of("input"));
    assert!(dropped(&packet(Protocol::Udp, 62202)));
    assert!(!dropped(&Packet { state: "new", ..packet(Protocol::Udp, 62202) }));
}

#[test]
fn a_sender_who_may_or_may_not_be_meant_makes_the_policy_a_perhaps() {
    let tables = by_hand();
    let hits = walk::drops(&tables, &tcp(9000));
    let policy = hits.iter().find(|hit| hit.rule.is_none()).unwrap();
    assert_eq!((policy.reach, policy.some_devices), (Truth::Maybe, false));
    assert!(policy.doubts.contains(&Doubt::Device), "{policy:?}");
}

#[test]
fn what_is_forwarded_meets_the_forward_chain_with_its_address() {
    let tables = by_hand();
    let forwarded = |to: &str, port| Packet {
        goes_out: Way::Through(None),
        service: vec![to.parse().unwrap()],
        ..tcp(port)
    };
    assert_eq!(drops(&tables, &forwarded("10.0.0.5", 8883)), []);
    assert_eq!(drops(&tables, &forwarded("10.0.0.6", 1883)), []);
    let found = drops(&tables, &forwarded("10.0.0.5", 1883));
    assert!(matches!(found.as_slice(), [(chain, Some(_), Truth::Yes)] if chain == "forward"));
}

#[test]
fn a_table_with_flags_is_named_so_that_nft_is_asked_whether_it_is_dormant() {
    let document = document(include_str!("tests/by-hand.json"));
    let listed = nft::parse(&document, &nft::elements(&document));
    assert_eq!(listed.flagged, [("inet".to_owned(), "asleep".to_owned())]);
}

#[test]
fn a_set_without_elements_that_is_small_by_its_type_is_asked_for_and_one_of_addresses_is_not() {
    let terse = r#"{"nftables": [
        {"set": {"family": "inet", "name": "ports", "table": "f", "type": "inet_service"}},
        {"set": {"family": "inet", "name": "pairs", "table": "f", "type": ["ipv4_addr", "inet_service"]}},
        {"set": {"family": "inet", "name": "block", "table": "f", "type": "ipv4_addr"}},
        {"map": {"family": "inet", "name": "zones", "table": "f", "type": "ifname", "map": "verdict"}},
        {"set": {"family": "inet", "name": "odd", "table": "f", "type": {"typeof": {}}}}
    ]}"#;
    let small = nft::small_sets(&document(terse));
    let names: Vec<_> = small.iter().map(|((.., name), kind)| (name.as_str(), *kind)).collect();
    assert_eq!(names, [("ports", "set"), ("zones", "map")]);
}

#[test]
fn what_no_version_known_here_lists_is_a_doubt_and_never_a_panic() {
    let odd = r#"{"nftables": [
        {"table": {"family": "inet", "name": "f", "handle": 1}},
        {"chain": {"family": "inet", "table": "f", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 2, "expr": [{"brand-new": {}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 3, "expr": [null, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 4, "expr": [{"match": {"op": "==", "left": {"osf": {}}, "right": 1}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 5, "expr": [{"match": {"op": "~", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"x": 1}}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "gone", "handle": 6, "expr": [{"drop": null}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 7, "expr": 7}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 8, "expr": [{"jump": {"target": "gone"}}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "input", "handle": 9, "expr": [{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@gone"}}]}}
    ]}"#;
    let found = drops(&listed(odd), &tcp(8883));
    let handles: Vec<_> = found.iter().filter_map(|(_, handle, _)| *handle).collect();
    assert_eq!(handles, [2, 3, 4, 5, 9]);
    assert!(found.iter().all(|(.., reach)| *reach == Truth::Maybe), "{found:?}");
}

#[test]
fn what_a_rule_of_iptables_asks_is_understood() {
    let verdicts = |rules: &str, packet: &Packet| {
        let saved = format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n");
        let tables = iptables::parse(&saved, packet.family, Tool::IptablesLegacy);
        drops(&tables, packet).first().map(|(.., reach)| *reach)
    };
    use Truth::{Maybe, Yes};
    for (rule, expected) in [
        ("-p tcp --dport 8883", Some(Yes)),
        ("-p tcp -m tcp --dport 8000:9000", Some(Yes)),
        ("-p tcp -m multiport --dports 22,8883", Some(Yes)),
        ("-p tcp -m multiport ! --dports 22,443", Some(Yes)),
        ("-p udp --dport 8883", None),
        ("! -p tcp", None),
        ("-i eth+", Some(Yes)),
        ("-i lo", None),
        ("! -i lo", Some(Yes)),
        ("-o eth0", None),
        ("-s 10.0.0.0/8", Some(Maybe)),
        ("-s 0.0.0.0/0", Some(Yes)),
        ("-s 127.0.0.0/8", None),
        ("-d 10.77.0.1/32", Some(Yes)),
        ("-d 192.0.2.0/255.255.255.0", None),
        ("-m conntrack --ctstate NEW", Some(Yes)),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED", Some(Yes)),
        ("-m conntrack --ctstate RELATED,ESTABLISHED,DNAT", None),
        ("-m state --state INVALID", None),
        ("-p tcp ! --syn", None),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", Some(Yes)),
        ("-m addrtype --dst-type LOCAL", Some(Yes)),
        ("-m addrtype --dst-type BROADCAST", None),
        ("-m comment --comment \"tcp -j ACCEPT ! \\\"so\\\"\"", Some(Yes)),
        ("-m limit --limit 5/min", Some(Yes)),
        ("-m hashlimit --hashlimit-above 5/sec --hashlimit-name x", None),
        ("-m recent --rcheck --seconds 60", Some(Maybe)),
        ("-m set --match-set banned src", Some(Maybe)),
    ] {
        let text = format!("-A INPUT {rule} -j REJECT --reject-with icmp-port-unreachable\n");
        assert_eq!(verdicts(&text, &tcp(8883)), expected, "{rule}");
    }
    assert_eq!(verdicts("-A INPUT -j LOG --log-prefix \"no \"\n", &tcp(8883)), None);
    assert_eq!(verdicts("-A INPUT -j NFQUEUE --queue-num 1\n", &tcp(8883)), Some(Maybe));
}

/// A ruleset of one table with one chain, as nft lists it.
fn one_chain(family: &str, chain: &str, rules: &str) -> Vec<Table> {
    listed(&format!(
        r#"{{"nftables": [
            {{"table": {{"family": "{family}", "name": "t"}}}},
            {{"chain": {{"family": "{family}", "table": "t", "name": "c", "type": "filter", {chain}}}}},
            {{"rule": {{"family": "{family}", "table": "t", "chain": "c", "handle": 3, "expr": [{rules}]}}}}
        ]}}"#
    ))
}

/// What is sent back from a port of this host.
fn answer(of: Packet, state: &'static str) -> Packet {
    let goes_out = Way::Through(of.comes_in.clone());
    Packet { heading: Heading::ToDevice, comes_in: None, goes_out, state, ..of }
}

const ESTABLISHED: &str = r#"{"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": "established"}}, {"accept": null}"#;

#[test]
fn an_output_chain_meets_what_is_sent_back_by_its_source_port_state_and_way_out() {
    let output = r#""hook": "output", "prio": 0, "policy": "drop""#;
    let tables = one_chain("inet", output, ESTABLISHED);
    assert_eq!(drops(&tables, &answer(knock(), "untracked")), [policy_of("c")]);
    assert_eq!(drops(&tables, &answer(tcp(8883), "established")), []);
    // What comes in meets no such chain.
    assert_eq!(drops(&tables, &knock()), []);
    let from = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 62201}}, {"accept": null}"#;
    assert_eq!(drops(&one_chain("inet", output, from), &answer(knock(), "untracked")), []);
    let by_another = r#"{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth1"}}, {"accept": null}"#;
    let tables = one_chain("inet", output, by_another);
    assert_eq!(drops(&tables, &answer(knock(), "untracked")), [policy_of("c")]);
}

#[test]
fn a_chain_of_an_interface_meets_what_comes_in_by_it_and_one_of_a_bridge_what_its_ports_carry() {
    let ingress = |device: &str| {
        format!(r#""hook": "ingress", "dev": "{device}", "prio": 0, "policy": "drop""#)
    };
    for (device, expected) in [("eth0", vec![policy_of("c")]), ("eth1", vec![])] {
        let tables = one_chain("netdev", &ingress(device), r#"{"counter": null}"#);
        assert_eq!(drops(&tables, &tcp(8883)), expected, "{device}");
    }
    let input = r#""hook": "input", "prio": 0, "policy": "drop""#;
    let tables = one_chain("bridge", input, r#"{"counter": null}"#);
    let bridged = Packet { layer: Layer::Bridge, ..tcp(8883) };
    assert_eq!(drops(&tables, &bridged), [policy_of("c")]);
    assert_eq!(drops(&tables, &tcp(8883)), []);
}

#[test]
fn a_rule_that_untracks_offloads_or_proxies_a_packet_is_found_in_the_words_of_nft_and_of_iptables()
{
    let raw = r#""hook": "prerouting", "prio": -300, "policy": "accept""#;
    let port = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8883}}"#;
    let untracks = one_chain("ip", raw, &format!(r#"{port}, {{"notrack": null}}"#));
    let found = |tables: &[Table], packet: &Packet| {
        let effects = walk::effects(tables, packet);
        effects.iter().map(|it| (it.effect, it.reach)).collect::<Vec<_>>()
    };
    assert_eq!(found(&untracks, &tcp(8883)), [(Effect::Untrack, Truth::Yes)]);
    assert_eq!(found(&untracks, &tcp(1883)), []);
    for target in ["NOTRACK", "CT --notrack"] {
        let saved = format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 8883 -j {target}\nCOMMIT\n"
        );
        let tables = iptables::parse(&saved, IpFamily::V4, Tool::IptablesNft);
        assert_eq!(found(&tables, &tcp(8883)), [(Effect::Untrack, Truth::Yes)], "{target}");
    }
    let forward = r#""hook": "forward", "prio": 0, "policy": "accept""#;
    let offloads = one_chain("inet", forward, r#"{"flow": {"op": "add", "flowtable": "@f"}}"#);
    let through = Packet { goes_out: Way::Through(None), ..tcp(8883) };
    assert_eq!(found(&offloads, &through), [(Effect::Offload, Truth::Yes)]);
    let proxy = r#"{"tproxy": {"family": "ip", "port": 8883}}, {"accept": null}"#;
    let other = port.replace("8883", "8884");
    let proxies = one_chain("ip", raw, &format!("{other}, {proxy}"));
    assert_eq!(found(&proxies, &tcp(8884)), [(Effect::Proxy(8883), Truth::Yes)]);
    let saved = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 8884 -j TPROXY --on-port 8883 \
                 --on-ip 0.0.0.0 --tproxy-mark 0x7/0x7\nCOMMIT\n";
    let proxies = iptables::parse(saved, IpFamily::V4, Tool::IptablesNft);
    assert_eq!(found(&proxies, &tcp(8884)), [(Effect::Proxy(8883), Truth::Yes)]);
}
