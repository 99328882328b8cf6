//! A flow table that takes connections to a service behind this host over, on a kernel that has flow tables: `make
//! test-kernels` runs it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::IpAddr;

use e2e::door::MQTTS;
use e2e::{Daemon, Device, Door, Echo, Settings, State, Talk, World, until};

const BEHIND: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\nto = [\"10.78.0.2\"]\n",
    tables: "",
};
/// How many of a connection's packets may meet a chain after a flow table has taken it: what was on its way.
const STRAY: u64 = 2;
/// How many lines are said to see whether their packets meet a chain: each is two packets or more.
const LINES: u64 = 10;

/// A broker's host that forwards to a service behind it, by a flow table as the kernel's documentation has it.
struct Router<'w> {
    world: &'w World,
    door: Door<'w>,
    device: Device<'w>,
    daemon: Daemon,
    _echo: Echo,
}

impl<'w> Router<'w> {
    fn new(world: &'w World) -> Self {
        let echo = Echo::start(world.behind_broker(), &["tcp/8883"]);
        world.broker().nft(
            "table inet fast {
                flowtable f { hook ingress priority 0; devices = { eth0, inner }; }
                chain forward {
                    type filter hook forward priority 10;
                    tcp dport 8883 counter comment \"to the service\"
                    ct state established flow add @f
                }
            }",
        );
        let door = Door::new(world, &BEHIND);
        let device = door.enrol("press-17");
        let daemon = door.ready();
        Self { world, door, device, daemon, _echo: echo }
    }

    /// How many packets to the service have met the chain.
    fn seen(&self) -> u64 {
        let argv = ["nft", "list", "chain", "inet", "fast", "forward"];
        let listing = self.world.broker().run(&argv).success().stdout;
        let packets = listing.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        packets.and_then(|packets| packets.parse().ok()).expect("a counter")
    }

    /// A granted client's connection that a flow table has taken: its packets meet no chain.
    fn offloaded(&self) -> Talk {
        self.device.knock(self.world.client(), &["-4", "--open-for", "600s"]).success();
        self.world.client().tcp_until(service(), MQTTS, State::Open);
        let mut session = Talk::tcp(self.world.client(), service(), MQTTS, None);
        until("a flow table has the connection", || {
            session.works();
            self.is_past_all_chains(&mut session)
        });
        session
    }

    fn is_past_all_chains(&self, session: &mut Talk) -> bool {
        let before = self.seen();
        for _ in 0..LINES {
            session.works();
        }
        self.seen() - before <= STRAY
    }
}

fn service() -> IpAddr {
    "10.78.0.2".parse().unwrap()
}

#[test]
fn the_rule_that_offloads_is_named_as_this_kernel_gives_it_back() {
    let world = World::new();
    let router = Router::new(&world);
    let found = router.door.run(&["doctor", "--json"]).json();
    let mut found = found["findings"].as_array().expect("a list").clone();
    found.retain(|it| it["id"] == "flow-offloaded");
    assert_eq!(found.len(), 1, "{found:?}");
    let mend = found[0]["mend"].as_str().expect("text");
    let argv: Vec<&str> = mend.split(' ').collect();
    world.broker().run(&argv).success();
    let found = router.door.run(&["doctor", "--json"]).json().to_string();
    assert!(!found.contains("flow-offloaded"), "{found}");
}

#[test]
fn what_a_flow_table_has_taken_outlives_a_revocation_and_new_connections_do_not_come() {
    let world = World::new();
    let router = Router::new(&world);
    let mut session = router.offloaded();
    router.door.run(&["revoke", "press-17"]).success();
    assert!(router.is_past_all_chains(&mut session));
    assert_eq!(world.client().tcp(service(), MQTTS), State::Filtered);
}

#[test]
fn revoke_with_cut_ends_what_a_flow_table_has_taken_or_says_how_many_go_on() {
    let world = World::new();
    let router = Router::new(&world);
    let mut session = router.offloaded();
    let told = router.door.run(&["revoke", "press-17", "--cut"]);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("read");
    println!("Linux {}: {told}", kernel.trim());
    assert_eq!(world.client().tcp(service(), MQTTS), State::Filtered);
    if told.stdout.contains("connections ended: 1") {
        // The kernel looks once a second for flows whose entry is gone; until then their packets pass.
        until("the connection has ended", || !session.is_answered());
    } else {
        assert!(told.stderr.contains("1 go on in a flow table"), "{told}");
        router.daemon.tells(&["connections-not-ended", "1 go on in a flow table"]);
        session.works();
    }
}
