//! Which addresses are the host's own: what `ip` and resolv.conf say is what knockd finds.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;

use e2e::{Host, World, binaries};

/// What must never be banned on this host, sorted, loopback left out.
fn never_banned(host: Host<'_>) -> Vec<String> {
    let found = host.run(&[&binaries::path("packet"), "never-banned"]).success().stdout;
    let loopback = ["127.0.0.1 is", "::1 is"];
    let is_loopback = |line: &&str| loopback.iter().any(|start| line.starts_with(start));
    let (loopback, mut others): (Vec<_>, Vec<_>) = found.lines().partition(is_loopback);
    assert_eq!(loopback.len(), 2, "{found}");
    // The kernel made that one itself, from the interface's hardware address.
    others
        .retain(|line| !(line.starts_with("fe80::") && line.ends_with("an address of this host")));
    let mut others: Vec<String> = others.into_iter().map(str::to_owned).collect();
    others.sort();
    others
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn own_of_the_wire() -> Vec<String> {
    ["10.77.0.1", "fd77::1"].map(|own| format!("{own} is an address of this host")).into()
}

fn ip(host: Host<'_>, commands: &str) {
    host.run_with(&["ip", "-batch", "-"], &[], commands).success();
}

#[test]
fn the_addresses_of_all_interfaces_are_the_hosts_own() {
    let world = World::with(&["broker"]);
    let broker = world.broker();
    ip(
        broker,
        "link add other type veth peer name far\nlink set other up\n\
         addr add 192.0.2.7/24 dev other\naddr add 192.0.2.8/24 dev other\n\
         addr add 198.51.100.1 peer 198.51.100.2 dev other\n\
         addr add 2001:db8::7/64 dev other nodad",
    );
    let others = ["192.0.2.7", "192.0.2.8", "198.51.100.1", "2001:db8::7"];
    let others = others.map(|own| format!("{own} is an address of this host"));
    assert_eq!(never_banned(broker), sorted([own_of_the_wire(), others.into()].concat()));
}

#[test]
fn the_gateways_of_every_kind_of_route_in_every_table_are_found() {
    let world = World::with(&["broker"]);
    let broker = world.broker();
    // In this mode, as routing daemons set it, routes name their next hops' objects by number alone.
    broker.run(&["sysctl", "-w", "net.ipv4.nexthop_compat_mode=0"]).success();
    ip(
        broker,
        "route add default via 10.77.0.101\n\
         route add 198.51.100.0/24 via 10.77.0.102 table 1000\n\
         route add 203.0.113.0/24 via 192.0.2.103 dev eth0 onlink\n\
         route add 192.0.3.0/24 via inet6 fd77::104\n\
         route add 192.0.4.0/24 nexthop via 10.77.0.105 nexthop via inet6 fd77::106\n\
         nexthop add id 7 via 10.77.0.107 dev eth0\n\
         nexthop add id 8 via fd77::108 dev eth0\n\
         route add 192.0.5.0/24 nhid 7\n\
         route add 2001:db8:5::/48 nhid 8\n\
         route add 2001:db8:6::/48 nexthop via fd77::109 nexthop via fd77::110\n\
         route add default via fe80::111 dev eth0\n\
         route add 2001:db8:7::/48 via fe80::112 dev eth0 table 1000\n\
         route add blackhole 192.0.6.0/24\n\
         route add 192.0.7.0/24 dev eth0 src 10.77.0.1",
    );
    let gateways = [
        "10.77.0.101",
        "10.77.0.102",
        "192.0.2.103",
        "fd77::104",
        "10.77.0.105",
        "fd77::106",
        "10.77.0.107",
        "fd77::108",
        "fd77::109",
        "fd77::110",
        "fe80::111",
        "fe80::112",
    ];
    let gateways = gateways.map(|gateway| format!("{gateway} is a gateway of this host"));
    assert_eq!(never_banned(broker), sorted([own_of_the_wire(), gateways.into()].concat()));
}

#[test]
fn the_resolvers_are_those_of_resolv_conf_and_of_resolved() {
    let world = World::with(&["broker"]);
    let broker = world.broker();
    fs::write(
        world.dir().join("resolv.conf"),
        "nameserver 10.77.0.53\nnameserver fe80::53%eth0\nnameserver 10.77.0.1\n",
    )
    .expect("write resolv.conf");
    let upstream = "mkdir -p /run/systemd/resolve && \
                    echo nameserver 9.9.9.9 >/run/systemd/resolve/resolv.conf";
    broker.run(&["sh", "-c", upstream]).success();
    let found = never_banned(broker);
    for resolver in ["10.77.0.53", "fe80::53", "9.9.9.9"] {
        let line = format!("{resolver} is a resolver of this host");
        assert!(found.contains(&line), "{resolver}: {found:?}");
    }
    assert!(found.contains(&"10.77.0.1 is an address of this host".to_owned()), "{found:?}");
}

#[test]
fn many_routes_through_the_same_gateways_are_these_gateways_once() {
    let world = World::with(&["broker"]);
    let broker = world.broker();
    let routes: String = (0..10_000)
        .map(|n: u32| {
            let [_, b, c, d] = n.to_be_bytes();
            format!("route add 100.{b}.{c}.{d}/32 via 10.77.0.{}\n", 100 + n % 3)
        })
        .collect();
    ip(broker, &routes);
    let gateways = ["100", "101", "102"].map(|n| format!("10.77.0.{n} is a gateway of this host"));
    assert_eq!(never_banned(broker), sorted([own_of_the_wire(), gateways.into()].concat()));
}
