//! `knockd doctor`: what happens to a device's packets, and to the answers, beyond the chains of input and forward.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::diagnosis::{findings, ids, mend, the};
use e2e::door::{MQTTS, broker4};
use e2e::{Daemon, Device, Door, Echo, Settings, State, World};

const REPLY: &str = "[reply]\nenabled = true\n";
const KEEP: &str = "[grant]\nsessions = \"keep\"\n";

fn running<'w>(world: &'w World, tables: &'w str) -> (Echo, Door<'w>, Device<'w>, Daemon) {
    let echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(world, &Settings { tables, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    (echo, door, device, daemon)
}

#[test]
fn a_filter_of_what_leaves_that_drops_replies_is_named_and_its_command_lets_them_out() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world, REPLY);
    world.broker().nft(
        "table inet egress { chain output { type filter hook output priority 0; policy drop;
            ct state established,related accept
            oif lo accept
            meta l4proto { icmp, ipv6-icmp } accept
        }; }",
    );
    let asks = |seconds: &str| device.knock(world.client(), &["-4", "--reply", seconds]);
    assert_ne!(asks("--wait=1s").code, Some(0));
    let found = findings(&door);
    let fault = the(&found, "firewall-drops");
    assert_eq!(fault["severity"], "fault");
    let what = fault["what"].as_str().expect("text");
    assert!(what.contains("answers from udp/62201"), "{what}");
    // What the service answers is established, and passes.
    assert_eq!(found.iter().filter(|it| it["severity"] == "fault").count(), 1, "{found:#?}");
    mend(&world, &fault);
    assert!(!ids(&findings(&door)).contains(&"firewall-drops"));
    device.knock(world.client(), &["-4", "--reply"]).success();
}

#[test]
fn a_filter_behind_routing_that_drops_a_services_answers_is_named() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world, "");
    device.opens(&[]);
    world.broker().nft(
        "table ip egress { chain leave { type filter hook postrouting priority 0; tcp sport 8883 drop; }; }",
    );
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    let fault = the(&findings(&door), "firewall-drops");
    assert!(fault["what"].as_str().expect("text").contains("answers from tcp/8883"), "{fault}");
    mend(&world, &fault);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn what_is_dropped_at_another_interface_is_no_drop() {
    let world = World::new();
    world.ip(Some("broker"), "link add other type bridge\nlink set other up");
    let (_echo, door, device, _daemon) = running(&world, "");
    world.broker().nft(
        "table netdev early { chain there { type filter hook ingress device \"other\" priority 0; drop; }; }",
    );
    device.opens(&[]);
    let found = findings(&door);
    assert!(!ids(&found).iter().any(|id| id.starts_with("firewall-")), "{found:#?}");
}

#[test]
fn conntrack_that_forgets_sooner_than_a_kept_session_needs_is_named_with_the_figure() {
    let world = World::new();
    let name = "net.netfilter.nf_conntrack_tcp_timeout_established";
    {
        let (_echo, door, ..) = running(&world, KEEP);
        assert!(!ids(&findings(&door)).contains(&"conntrack-forgets"));
        world.broker().run(&["sysctl", "-w", &format!("{name}=10")]).success();
        let found = the(&findings(&door), "conntrack-forgets");
        assert_eq!(found["severity"], "warning");
        assert!(found["what"].as_str().expect("text").contains("silent for 10 s"), "{found}");
        mend(&world, &found);
        assert!(!ids(&findings(&door)).contains(&"conntrack-forgets"));
    }
}

#[test]
fn where_sessions_end_with_their_grant_conntracks_timeouts_are_no_finding() {
    let world = World::new();
    let (_echo, door, ..) = running(&world, "[grant]\nsessions = \"cut\"\n");
    let short = "net.netfilter.nf_conntrack_tcp_timeout_established=10";
    world.broker().run(&["sysctl", "-w", short]).success();
    assert!(!ids(&findings(&door)).contains(&"conntrack-forgets"));
}

#[test]
fn a_port_that_another_rule_takes_out_of_conntrack_is_named_and_its_session_ends_with_the_grant() {
    let world = World::new();
    let (_echo, door, ..) = running(&world, KEEP);
    world.broker().nft(
        "table ip early { chain raw { type filter hook prerouting priority raw; tcp dport 8883 notrack; }; }",
    );
    let found = the(&findings(&door), "port-untracked");
    assert!(found["what"].as_str().expect("text").contains("tcp/8883"), "{found}");
    mend(&world, &found);
    assert!(!ids(&findings(&door)).contains(&"port-untracked"));
}

/// A transparent proxy at the service's port.
const TRANSPARENT: &str = "
import socket, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_IP, 19, 1)
listener.bind(('0.0.0.0', 8883))
listener.listen()
print('serving', flush=True)
time.sleep(600)
";

#[test]
fn a_transparent_proxy_that_leads_another_port_to_a_service_is_named_and_one_for_its_own_port_is_not()
 {
    let world = World::new();
    let broker = world.broker();
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let _daemon = door.ready();
    world.ip(
        Some("broker"),
        "rule add fwmark 7 lookup 100\nroute add local default dev lo table 100",
    );
    broker.nft("add table ip proxy { chain c { type filter hook prerouting priority mangle; }; }");
    let rule = |port: &str| {
        broker.nft(&format!(
            "add rule ip proxy c tcp dport {port} tproxy to :8883 meta mark set 7 accept"
        ));
    };
    let mut proxy = broker.spawn(&["python3", "-c", TRANSPARENT], &[]);
    proxy.wait_for("serving");
    rule("8883");
    assert!(!ids(&findings(&door)).contains(&"service-proxied"));
    rule("8884");
    let way = broker4(&world);
    assert_eq!(world.attacker().tcp(way, 8884), State::Open, "no chain knows where it leads");
    let fault = the(&findings(&door), "service-proxied");
    assert_eq!(fault["severity"], "fault");
    assert!(fault["what"].as_str().expect("text").contains("tcp/8883"), "{fault}");
    mend(&world, &fault);
    assert!(!ids(&findings(&door)).contains(&"service-proxied"));
    assert_ne!(world.attacker().tcp(way, 8884), State::Open);
    assert_eq!(world.attacker().tcp(way, MQTTS), State::Filtered);
}

#[test]
fn a_service_behind_this_host_that_is_on_the_devices_own_network_is_named() {
    let world = World::new();
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\nto = [\"10.77.0.9\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let _daemon = door.ready();
    let found = the(&findings(&door), "service-on-the-segment");
    assert_eq!(found["severity"], "warning");
    assert!(found["what"].as_str().expect("text").contains("10.77.0.9"), "{found}");
}

#[test]
fn networks_that_need_no_knock_where_anybody_can_send_in_their_name_are_named() {
    let world = World::new();
    let services = "[[service]]\nname = \"coap\"\nports = [\"udp/5683\"]\n";
    let tables = "[allow]\nnetworks = [\"192.0.2.0/24\"]\n";
    let door = Door::new(&world, &Settings { services, tables, ..Settings::default() });
    let _daemon = door.ready();
    let set = |name: &str, value: u8| {
        let setting = format!("net.ipv4.conf.{name}.rp_filter={value}");
        world.broker().run(&["sysctl", "-w", &setting]).success();
    };
    set("all", 0);
    set("eth0", 0);
    let found = the(&findings(&door), "allowed-forgeable");
    assert_eq!(found["severity"], "warning");
    set("eth0", 1);
    assert!(!ids(&findings(&door)).contains(&"allowed-forgeable"));
}

#[test]
fn resolvers_that_the_daemons_user_cannot_read_are_named() {
    let world = World::new();
    let (_echo, door, ..) = running(&world, "");
    world.broker().run(&["chmod", "600", "/etc/resolv.conf"]).success();
    let found = the(&findings(&door), "resolvers-unread");
    mend(&world, &found);
    assert!(!ids(&findings(&door)).contains(&"resolvers-unread"));
}

#[test]
fn where_the_resolvers_cannot_be_read_that_is_told_and_an_admin_can_ban_all_the_same() {
    let world = World::new();
    // root reads every file whatever its mode: the memory of a process that has ended is read by nobody.
    let unread = "mount --bind /proc/self/mem /etc/resolv.conf";
    world.broker().run(&["sh", "-c", unread]).success();
    let (_echo, door, _device, daemon) = running(&world, "");
    daemon.tells(&["own-addresses-unknown", "/etc/resolv.conf"]);
    door.run(&["ban", "192.0.2.99"]).success();
    // What could be read is protected.
    door.run(&["ban", "10.77.0.1"]).exits(65);
}
