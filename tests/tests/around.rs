//! Rules of others that redirect or translate, or proxy a guarded port: none leads around the door.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::IpAddr;

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::table::counted;
use e2e::{Device, Door, Echo, Foreign, Host, Settings, State, Talk, World};

/// Two services, here and behind, and a device for each.
const SETTINGS: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
               [[service]]\nname = \"inner\"\nports = [\"tcp/1883\"]\nto = [\"10.78.0.2\", \"fd78::2\"]\n",
    tables: "[grant]\nsessions = \"cut\"",
};

const INNER: &str = "10.78.0.2";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What these rules of the broker's host lead to, by address and port.
fn is(from: Host<'_>, to: &str, port: u16, state: State) {
    assert_eq!(from.tcp(address(to), port), state, "{} to {to} port {port}", from.name());
}

fn let_in(door: &Door<'_>, device: &Device<'_>, client: Host<'_>, service: &str) {
    let before = door.grants().len();
    let options = ["-4", "--open-for", "600s", "--service", service];
    device.knock(client, &options).success();
    e2e::until("it is granted", || door.grants().len() > before);
}

#[test]
fn no_address_translation_leads_around_the_door_and_who_is_let_in_comes_through_it() {
    let world = World::new();
    let inner = world.behind_broker();
    let (broker, client, attacker) = (world.broker(), world.client(), world.attacker());
    let _echo = (
        Echo::start(broker, &["tcp/8883", "tcp/22"]),
        Echo::start(inner, &["tcp/8883", "tcp/1883", "tcp/22"]),
    );
    // As MetalLB and kube-proxy have it: addresses that no interface has, which are routed here.
    for host in ["client", "attacker"] {
        world.ip(Some(host), "route add 10.0.2.0/24 via 10.77.0.1");
    }
    broker.nft(
        "table ip others { chain c { type nat hook prerouting priority dstnat; \
         ip daddr 10.77.0.1 tcp dport 80 redirect to :8883; \
         ip daddr 10.77.0.1 tcp dport 81 dnat to 10.78.0.2:1883; \
         ip daddr 10.78.0.2 tcp dport 82 dnat to 10.77.0.1:8883; \
         ip daddr 10.78.0.2 tcp dport 83 redirect to :8883; \
         ip daddr 10.0.2.100 tcp dport 8883 dnat to 10.78.0.2:8883; \
         ip daddr 10.0.2.100 tcp dport 84 dnat to 10.78.0.2:1883; \
         ip daddr 10.0.2.100 tcp dport 85 dnat to 10.78.0.2:22; \
         ip daddr 10.77.0.1 tcp dport 86 redirect to :22; }; }",
    );
    // Each way: to where, and what service it leads to.
    let (here, nobody) = ("10.77.0.1", "10.0.2.100");
    let to_mqtts = [(here, MQTTS), (here, 80), (INNER, 82), (INNER, 83), (nobody, MQTTS)];
    let to_inner = [(INNER, 1883), (here, 81), (nobody, 84)];
    let to_others = [(nobody, 85), (here, 86), (here, 22), (INNER, 22), (INNER, MQTTS)];
    let all = || to_mqtts.iter().chain(&to_inner).chain(&to_others);
    for &(to, port) in all() {
        is(attacker, to, port, State::Open);
    }

    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol_with("press-17", &["--service", "mqtts", "--service", "inner"]);
    let _daemon = door.ready();
    let finds = |host, ways: &[(&str, u16)], state| {
        for &(to, port) in ways {
            is(host, to, port, state);
        }
    };
    for host in [attacker, client] {
        finds(host, &to_mqtts, State::Filtered);
        finds(host, &to_inner, State::Filtered);
        finds(host, &to_others, State::Open);
    }
    let_in(&door, &device, client, "mqtts");
    finds(client, &to_mqtts, State::Open);
    finds(client, &to_inner, State::Filtered);
    let_in(&door, &device, client, "inner");
    finds(client, &to_inner, State::Open);
    finds(attacker, &to_mqtts, State::Filtered);
    finds(attacker, &to_inner, State::Filtered);

    // By every way the connection ends with the grant.
    let ways = [(here, 80), (nobody, MQTTS), (here, 81)];
    let mut sessions = ways.map(|(to, port)| Talk::tcp(client, address(to), port, None));
    sessions.iter_mut().for_each(Talk::works);
    door.run(&["revoke", "press-17"]).success();
    sessions.iter_mut().for_each(Talk::is_dead);
}

#[test]
fn revoke_with_cut_ends_sessions_that_were_translated() {
    let world = World::new();
    let inner = world.behind_broker();
    let (broker, client) = (world.broker(), world.client());
    let _echo = (Echo::start(broker, &["tcp/8883"]), Echo::start(inner, &["tcp/1883"]));
    world.ip(Some("client"), "route add 10.0.2.0/24 via 10.77.0.1");
    broker.nft(
        "table ip others { chain c { type nat hook prerouting priority dstnat; \
         tcp dport 80 redirect to :8883; tcp dport 81 dnat to 10.78.0.2:1883; \
         ip daddr 10.0.2.100 tcp dport 8883 dnat to 10.78.0.2:1883; }; }",
    );
    let door = Door::new(&world, &Settings { tables: "[grant]\nsessions = \"keep\"", ..SETTINGS });
    let device = door.enrol_with("press-17", &["--service", "mqtts", "--service", "inner"]);
    let _daemon = door.ready();
    let_in(&door, &device, client, "mqtts");
    let_in(&door, &device, client, "inner");
    let ways = [("10.77.0.1", 80), ("10.77.0.1", 81), ("10.0.2.100", MQTTS)];
    let mut sessions = ways.map(|(to, port)| Talk::tcp(client, address(to), port, None));
    sessions.iter_mut().for_each(Talk::works);
    door.run(&["revoke", "press-17"]).success();
    sessions.iter_mut().for_each(Talk::works);
    door.run(&["revoke", "press-17", "--cut"]).success();
    sessions.iter_mut().for_each(Talk::is_dead);
}

/// A listener that takes connections to anywhere.
const TRANSPARENT: &str = "
import socket, time
listener = socket.socket()
listener.setsockopt(socket.SOL_IP, 19, 1)
listener.bind(('0.0.0.0', 8883))
listener.listen()
print('serving', flush=True)
time.sleep(600)
";

#[test]
fn a_transparent_proxy_and_addresses_that_routing_rules_make_local_are_guarded() {
    let world = World::new();
    let (broker, attacker) = (world.broker(), world.attacker());
    world.ip(
        Some("attacker"),
        "route add 198.51.100.0/24 via 10.77.0.1\nroute add 10.0.3.0/24 via 10.77.0.1",
    );
    world.ip(
        Some("broker"),
        "rule add fwmark 7 lookup 100\nroute add local default dev lo table 100\n\
         rule add to 10.0.3.0/24 lookup 101\nroute add local 10.0.3.0/24 dev lo table 101",
    );
    broker.nft(
        "table ip proxy { chain c { type filter hook prerouting priority mangle; \
         ip daddr 198.51.100.0/24 tcp dport 8883 tproxy to :8883 meta mark set 7 accept; }; }",
    );
    let mut proxy = broker.spawn(&["python3", "-c", TRANSPARENT], &[]);
    proxy.wait_for("serving");
    let ways = [("198.51.100.9", MQTTS), ("10.0.3.9", MQTTS)];
    for (to, port) in ways {
        is(attacker, to, port, State::Open);
    }
    Door::new(&world, &SETTINGS).run(&["firewall", "install"]).success();
    for (to, port) in ways {
        is(attacker, to, port, State::Filtered);
    }
}

/// Has the gateway forward and translate a handshake's first packet in the name of a service behind it, and connects to
/// where the service's answers then come from: both begin at once.
const IN_ITS_NAME: &str = "
import socket, struct, subprocess, sys, time
own, gateway, inner, port = '10.77.0.3', '10.77.0.1', '10.78.0.2', int(sys.argv[1])
subprocess.run(['ping', '-c1', '-W1', gateway], capture_output=True)
table = [line.split() for line in open('/proc/net/arp')][1:]
mac = lambda text: bytes.fromhex(text.strip().replace(':', ''))
to = next(mac(line[3]) for line in table if line[0] == gateway)
by = mac(open('/sys/class/net/eth0/address').read())
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return struct.pack('!H', ~total & 0xffff)
ends = socket.inet_aton(inner) + socket.inet_aton(own)
tcp = struct.pack('!HHIIBBHHH', 1883, port, 1000, 0, 0x50, 2, 64240, 0, 0)
tcp = tcp[:16] + checksum(ends + struct.pack('!HH', 6, 20) + tcp) + tcp[18:]
ip = struct.pack('!BBHHHBBH', 0x45, 0, 40, 1, 0, 64, 6, 0) + ends
ip = ip[:10] + checksum(ip) + ip[12:]
listener = socket.socket()
listener.bind((own, port))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('eth0', 0))
wire.send(to + by + b'\\x08\\x00' + ip + tcp)
time.sleep(0.3)
listener.settimeout(3)
try:
    listener.connect((gateway, 1883))
    print('connected')
except OSError as error:
    print(error)
";

#[test]
fn nobody_comes_in_as_the_answer_to_a_packet_in_a_services_name() {
    let world = World::new();
    let inner = world.behind_broker();
    let attacker = world.attacker();
    let _echo = (Echo::start(attacker, &["udp/9", "tcp/9"]), Echo::start(inner, &["tcp/1883"]));
    world.broker().run(&["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=2"]).success();
    world.broker().nft(
        "table ip nat { chain c { type nat hook postrouting priority srcnat; \
         oifname eth0 masquerade; }; }",
    );
    // The attacker's own reset would end what it has forged.
    attacker.nft(
        "table ip quiet { chain c { type filter hook output priority 0; tcp flags & rst == rst drop; }; }",
    );
    // Both ends begin at once, which doesn't come off each time.
    let comes_in = |mut ports: std::ops::Range<u16>| {
        ports.any(|port| {
            let port = port.to_string();
            let tried = attacker.run(&["python3", "-c", IN_ITS_NAME, &port]).success();
            tried.stdout.contains("connected")
        })
    };
    assert!(comes_in(5550..5560), "without the table somebody does");
    Door::new(&world, &SETTINGS).run(&["firewall", "install"]).success();
    assert!(!comes_in(5560..5563));
    // What the service's host begins from any other port has its answers.
    Talk::tcp(inner, attacker.v4(), 9, None).works();
    Talk::udp(inner, attacker.v4(), 9, None).works();
    is(attacker, INNER, 1883, State::Filtered);
}

#[test]
fn knocks_that_are_redirected_to_their_port_are_filtered_there_and_open() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    world.broker().nft(
        "table ip others { chain c { type nat hook prerouting priority dstnat; \
         udp dport 443 redirect to :62201; }; }",
    );
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let broker = broker4(&world);
    door.run(&["ban", "10.77.0.3"]).success();
    let dropped = || counted(&world, "knock", "banned by an admin");
    let before = dropped();
    world.attacker().packet(&["udp", "--to", &format!("{broker}:443"), "--size", "116"]);
    e2e::until("it is dropped", || dropped() == before + 1);
    let packet = Foreign(world.client()).datagram(&device, &[]);
    world.client().send_udp(broker, 443, &packet);
    world.client().tcp_until(broker, MQTTS, State::Open);
    assert_ne!(KNOCK_PORT, 443);
}

#[test]
fn a_table_with_a_door_before_routing_gives_way_to_one_behind_it() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    world.broker().nft(
        "table inet knockd { chain door { type filter hook prerouting priority -155; \
         tcp dport 22 drop; }; }",
    );
    let door = Door::new(&world, &SETTINGS);
    door.run(&["firewall", "install"]).success();
    door.run(&["firewall", "status"]).success();
    is(world.attacker(), "10.77.0.1", MQTTS, State::Filtered);
    is(world.attacker(), "10.77.0.1", 22, State::Closed);
}

#[test]
fn a_published_session_that_its_server_goes_on_with_ends_with_a_revoke_and_a_ban() {
    for order in [&["revoke", "press-17", "--cut"][..], &["ban", "10.77.0.2"]] {
        let world = World::new();
        let _echo = Echo::start(world.container(MQTTS), &["tcp/8883"]);
        let door = Door::new(&world, &Settings { tables: "", ..SETTINGS });
        let device = door.enrol_with("press-17", &["--service", "mqtts"]);
        let _daemon = door.ready();
        device.opens(&["--open-for", "600s"]);
        let mut talk = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
        talk.be_chattered_at();
        talk.works();
        door.run(order).success().says("1");
        talk.is_dead();
    }
}
