//! What whoever forges packets in a device's name can do to that device: a flood goes on while it knocks.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::flood::{Flood, forge, forge_with};
use e2e::table::{counted, elements, holds};
use e2e::{Capture, Device, Door, Echo, Foreign, Settings, State, Talk, World, until};

const SERVICES: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";
/// Lets six forged packets in a row reach the daemon.
const BUDGET: &str = "[prefilter]\njunk-budget = 1000000\n";

/// The address of the device, in whose name everything is forged.
const CLIENT: &str = "10.77.0.2";

fn is_banned(world: &World) -> bool {
    holds(world, "ban4", CLIENT)
}

#[test]
fn under_a_flood_in_its_name_a_device_is_banned_and_each_knock_opens_and_lifts_the_ban() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let devices = ["press-17", "press-18", "press-19"].map(|name| door.enrol(name));
    let daemon = door.ready_as_installed();
    let mut flood = Flood::start(&world, &["--from", CLIENT]);
    for device in devices {
        until("the address is banned", || is_banned(&world));
        let dropped = counted(&world, "knock", "banned by its failures");
        // Each attempt is a new connection: so several are made while forged packets go on coming.
        device.opens(&["--open-for", "6s"]);
        assert!(!is_banned(&world), "the knock has lifted the ban, and a live grant is not banned");
        for _ in 0..3 {
            assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
        }
        assert!(counted(&world, "knock", "banned by its failures") > dropped, "it went on");
        door.wait_until_over();
    }
    assert!(flood.goes_on());
    daemon.tells(&["client=press-19", "decision=\"granted\""]);
    daemon.tells(&["source=10.77.0.2", "decision=\"ban-lifted\""]);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn sixty_forged_packets_between_the_knock_and_the_connection_do_not_shut_it_out() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = format!("{BUDGET}[ban]\nscope = \"host\"\n");
    for tables in [BUDGET, &tables] {
        let door = Door::new(&world, &Settings { tables, ..Settings::default() });
        let device = door.enrol(if tables == BUDGET { "press-17" } else { "press-18" });
        let daemon = door.ready();
        let sniffed = Foreign(world.client()).datagram(&device, &[]);
        let client = world.client().v4();
        // Once with a ban from before, and once without.
        for count in [6, 60] {
            forge(&world, client, 6);
            until("it is banned", || is_banned(&world));
            device.knock(world.client(), &["-4", "--open-for", "2s"]).success();
            until("the ban is lifted", || !is_banned(&world));
            forge(&world, client, count);
            forge_with(&world, client, &sniffed[..16], count);
            until("the forged packets were seen", || {
                daemon.log().matches("reason=\"bad-mac\"").count() >= count as usize
            });
            assert!(!is_banned(&world), "a live grant is not banned");
            let mut talk = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
            talk.works();
            door.wait_until_over();
        }
        daemon.terminate();
    }
}

/// Sniffs the device's tag of today, and returns it in hex when the grant is over for which it knocked.
fn sniffed_tag(world: &World, door: &Door<'_>, device: &Device<'_>) -> String {
    let capture = Capture::on_the_wire(world, KNOCK_PORT);
    device.opens(&["--open-for", "1s"]);
    let tag = capture.first_payload()[..16].to_owned();
    door.wait_until_over();
    tag
}

#[test]
fn a_flood_with_a_sniffed_tag_that_the_daemon_keeps_up_with_delays_no_knock() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready_as_installed();
    let tag = sniffed_tag(&world, &door, &device);
    // Within what a build without optimizations takes on a busy machine.
    let mut flood = Flood::start(&world, &["--from", CLIENT, "--begins", &tag, "--rate", "1000"]);
    for round in 1..=3 {
        until("the address is banned", || is_banned(&world));
        device.opens(&["--open-for", "1s"]);
        until("it was granted", || daemon.granted() == 1 + round);
        door.wait_until_over();
    }
    assert!(flood.goes_on());
}

#[test]
fn a_flood_with_a_sniffed_tag_at_line_rate_ends_no_grant_and_opens_nothing_and_passes() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready_as_installed();
    let tag = sniffed_tag(&world, &door, &device);
    device.opens(&["--open-for", "1h"]);
    let mut flood = Flood::start(&world, &["--from", CLIENT, "--begins", &tag]);
    let passed = || counted(&world, "knock", "a client's tag: always through");
    until("far more came than the daemon's buffer holds", || passed() > 200_000);
    for _ in 0..3 {
        assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    }
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    assert!(flood.goes_on() && !is_banned(&world), "a live grant is not banned");
    drop(flood);
    daemon.tells(&["WARN", "datagrams were lost"]);
    // What waits in the buffer may take the daemon longer than the allowed skew: then the device knocks again.
    until("a knock closes the door", || {
        device.knock(world.client(), &["-4", "--close"]).success();
        door.grants().is_empty()
    });
    device.opens(&[]);
}

#[test]
fn over_ipv6_too_a_flood_in_its_name_does_not_keep_a_device_out() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let batch = "addr del fd77::2/64 dev eth0\naddr add 2001:db8:1:2::2/64 dev eth0 nodad\n\
                 route add fd77::/64 dev eth0\n";
    world.client().run_with(&["ip", "-batch", "-"], &[], batch).success();
    let route = ["ip", "route", "add", "2001:db8:1:2::/64", "dev", "eth0"];
    world.broker().run(&route).success();
    let daemon = door.ready_as_installed();
    let mut flood = Flood::at(&world, world.broker().v6(), &["--from", "2001:db8:1:2::bad"]);
    until("the network is banned", || !elements(&world, "ban6").is_empty());
    device.knock(world.client(), &["-6", "--wait=20s"]).success();
    assert!(flood.goes_on());
    daemon.tells(&["source=2001:db8:1:2::/64", "decision=\"ban-lifted\""]);
    assert_eq!(elements(&world, "ban6"), []);
}

/// `ban.scope = "host"`, with a port that no service is on.
#[test]
fn with_scope_host_a_banned_source_is_shut_out_of_everything_and_a_valid_knock_lets_it_back() {
    const FREE: u16 = 7_777;
    let world = World::with(&["broker", "client", "attacker", "friend"]);
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/7777"]);
    let tables =
        format!("{BUDGET}[ban]\nscope = \"host\"\n[allow]\nnetworks = [\"10.77.0.4/32\"]\n");
    let door = Door::new(&world, &Settings { tables: &tables, services: SERVICES, skew: 1 });
    door.run(&["check"]).success().says("forge");
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let (broker, client) = (broker4(&world), world.client());
    device.opens(&["--open-for", "1s"]);
    let mut guarded = Talk::tcp(client, broker, MQTTS, None);
    let mut free = Talk::tcp(client, broker, FREE, None);
    door.wait_until_over();
    guarded.works();
    free.works();

    forge(&world, client.v4(), 6);
    until("it is banned", || is_banned(&world));
    guarded.is_dead();
    free.is_dead();
    assert_eq!(client.tcp(broker, FREE), State::Filtered);
    assert!(!client.run(&["ping", "-c", "1", "-W", "1", &broker.to_string()]).is_success());
    assert!(counted(&world, "banned", "from everything") > 0);
    // Nobody else is: neither a stranger nor who needs no knock.
    assert_eq!(world.attacker().tcp(broker, FREE), State::Open);
    forge(&world, world.host("friend").v4(), 20);
    assert_eq!(world.host("friend").tcp(broker, MQTTS), State::Open);

    device.opens(&[]);
    daemon.tells(&["decision=\"ban-lifted\"", CLIENT]);
    assert_eq!(client.tcp(broker, FREE), State::Open);
    guarded.works();
    free.works();
}

#[test]
fn without_it_a_ban_shuts_nothing_but_the_knock_port() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/7777"]);
    let door = Door::new(&world, &Settings { tables: BUDGET, ..Settings::default() });
    let checked = door.run(&["check"]).success();
    assert!(!checked.stderr.contains("forge"), "{checked}");
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "1s"]);
    let mut talk = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    door.wait_until_over();
    forge(&world, world.client().v4(), 6);
    until("it is banned", || is_banned(&world));
    talk.works();
    assert_eq!(world.client().tcp(broker4(&world), 7_777), State::Open);
}
