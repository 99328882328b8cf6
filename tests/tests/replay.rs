//! A packet is accepted once, ever; and the memory of that is never lost unnoticed.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;

use e2e::door::{AHEAD, KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::{Capture, Daemon, Device, Door, Echo, Foreign, Settings, State, World};

const SETTINGS: Settings<'_> = Settings {
    skew: WIDE,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "",
};

/// A world with a running daemon, and a packet of a foreign client that has opened the door and
/// whose grant is over.
struct Used<'w> {
    world: &'w World,
    door: Door<'w>,
    device: Device<'w>,
    packet: String,
    _echo: Echo,
}

impl<'w> Used<'w> {
    fn new(world: &'w World) -> (Self, Daemon) {
        let echo = Echo::start(world.broker(), &["tcp/8883"]);
        let door = Door::new(world, &SETTINGS);
        let device = door.enrol("press-17");
        let daemon = door.ready_for_ahead();
        let packet =
            Foreign(world.client()).datagram(&device, &[&AHEAD[..], &["--open-for", "3"]].concat());
        let used = Self { world, door, device, packet, _echo: echo };
        world.client().send_udp(broker4(world), KNOCK_PORT, &used.packet);
        world.client().tcp_until(broker4(world), MQTTS, State::Open);
        used.is_shut_in_the_end();
        (used, daemon)
    }

    fn is_shut_in_the_end(&self) {
        self.door.wait_until_over();
        assert_eq!(self.world.client().tcp(broker4(self.world), MQTTS), State::Filtered);
    }

    /// Sends the packet again, from the client and from the attacker; neither gets in.
    fn opens_nothing(&self, daemon: &Daemon) {
        let before = refusals(daemon);
        for host in [self.world.client(), self.world.attacker()] {
            host.send_udp(broker4(self.world), KNOCK_PORT, &self.packet);
        }
        e2e::until("both copies were refused", || refusals(daemon) == before + 2);
        for host in [self.world.client(), self.world.attacker()] {
            assert_eq!(host.tcp(broker4(self.world), MQTTS), State::Filtered);
        }
        assert_eq!(self.door.grants().len(), 0);
    }
}

fn refusals(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains("decision=\"refused\"")).count()
}

#[test]
fn a_foreign_packet_opens_once_and_its_replay_from_anywhere_opens_nothing() {
    let world = World::new();
    let (used, daemon) = Used::new(&world);
    used.opens_nothing(&daemon);
    daemon.refuses("replayed", 1);
    daemon.refuses("address-mismatch", 1);
}

#[test]
fn a_replay_opens_nothing_after_kill_9_of_the_daemon() {
    let world = World::new();
    let (used, daemon) = Used::new(&world);
    daemon.kill9();
    let daemon = used.door.start();
    used.opens_nothing(&daemon);
    daemon.refuses("replayed", 1);
}

#[test]
fn a_replay_opens_nothing_after_sigterm_of_the_daemon() {
    let world = World::new();
    let (used, daemon) = Used::new(&world);
    daemon.terminate();
    let daemon = used.door.start();
    used.opens_nothing(&daemon);
    daemon.refuses("replayed", 1);
}

#[test]
fn a_replay_of_a_packet_without_an_address_opens_nothing_from_anywhere() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let daemon = door.ready_for_ahead();
    let packet = Foreign(world.client())
        .datagram(&device, &[&AHEAD[..], &["--address", "observed"]].concat());
    world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    world.attacker().send_udp(broker4(&world), KNOCK_PORT, &packet);
    daemon.refuses("replayed", 1);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_copy_that_is_refused_elsewhere_first_does_not_burn_the_genuine_packet() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let packet = Foreign(world.client()).datagram(&device, &AHEAD);
    world.attacker().send_udp(broker4(&world), KNOCK_PORT, &packet);
    daemon.refuses("address-mismatch", 1);
    world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_captured_knock_of_the_real_client_opens_nothing_for_the_attacker() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let capture = Capture::on_the_wire(&world, KNOCK_PORT);
    device.opens(&[]);
    let packet = capture.first_payload();
    assert_eq!(packet.len(), 2 * 116, "the whole datagram: {packet}");
    world.attacker().send_udp(broker4(&world), KNOCK_PORT, &packet);
    daemon.tells(&["source=10.77.0.3", "decision=\"refused\""]);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_second_daemon_on_the_same_state_folder_refuses_to_start() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let first = door.start();
    let second = door.run(&["run"]);
    assert_eq!(second.code, Some(75), "{second}");
    second.says("state");
    first.terminate();
    door.start().terminate();
}

/// What becomes of the file of accepted packets while the daemon is away, and the word with which
/// the next daemon reports it.
type Mishap = (&'static str, fn(&std::path::Path));

#[test]
fn a_missing_or_damaged_memory_is_reported_and_nothing_older_than_start_and_skew_is_accepted() {
    let mishaps: [Mishap; 4] = [
        ("no memory", |file| fs::remove_file(file).expect("remove")),
        ("damaged", |file| fs::write(file, "nonsense").expect("write")),
        ("damaged", |file| {
            let mut content = fs::read(file).expect("read");
            for byte in &mut content {
                *byte ^= 0x55;
            }
            fs::write(file, content).expect("write");
        }),
        ("damaged", |file| fs::write(file, "").expect("write")),
    ];
    let world = World::new();
    let (used, daemon) = Used::new(&world);
    let mut running = Some(daemon);
    for (word, mishap) in mishaps {
        running.take().expect("a daemon runs").terminate();
        mishap(&seen_file(&used.door));
        let daemon = used.door.start();
        daemon.tells(&["memory", word]);
        // The old packet, and a fresh one of an honest device: refused, both.
        used.opens_nothing(&daemon);
        Foreign(world.client()).knock(&used.device, &[]);
        daemon.tells(&["client=press-17", "reason=\"stale\""]);
        assert_eq!(used.door.grants().len(), 0);
        running = Some(daemon);
    }
    // Somebody whose stamp is after start + skew gets in.
    let daemon = running.take().expect("a daemon runs");
    daemon.wait_out_ahead(&used.door);
    Foreign(world.client()).knock(&used.device, &AHEAD);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
}

#[test]
fn a_memory_cut_at_a_record_boundary_is_noticed() {
    let world = World::new();
    let (used, daemon) = Used::new(&world);
    let file = seen_file(&used.door);
    let before = fs::metadata(&file).expect("look at the file").len();
    Foreign(world.client()).knock(&used.device, &AHEAD);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    let after = fs::metadata(&file).expect("look at the file").len();
    daemon.terminate();
    assert!(after > before, "a packet more is a longer file");
    let opened = fs::OpenOptions::new().write(true).open(&file).expect("open");
    opened.set_len(before).expect("cut");
    let daemon = used.door.start();
    daemon.tells(&["memory", "damaged"]);
}

#[test]
fn after_a_plain_restart_a_fresh_packet_of_a_device_with_a_slow_clock_is_accepted() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: 6, ..SETTINGS });
    let device = door.enrol("press-17");
    let slow = ["--clock-offset", "-4"];
    let daemon = door.ready();
    // Until a slow device's stamp, too, is after the first start + skew.
    e2e::until("a slow device gets in", || {
        Foreign(world.client()).knock(&device, &[&slow[..], &["--open-for", "1"]].concat());
        daemon.granted() > 0
    });
    daemon.terminate();
    door.wait_until_over();
    let _daemon = door.start();
    Foreign(world.client()).knock(&device, &slow);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
}

#[test]
fn a_device_whose_clock_is_too_far_off_is_told_apart_with_the_difference() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.start();
    Foreign(world.client()).knock(&device, &["--clock-offset", "-100"]);
    daemon.tells(&["client=press-17", "reason=\"stale\"", "-100"]);
    Foreign(world.client()).knock(&device, &["--clock-offset", "100"]);
    daemon.refuses("stale", 2);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn a_full_disk_refuses_knocks_with_an_event_and_opens_nothing_unrecorded() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let state = door.state().display().to_string();
    let broker = world.broker();
    broker.run(&["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", &state]).success();
    let daemon = door.ready_for_ahead();
    // Knocks, and says whether that was granted.
    let knock = || {
        let (granted, refused) = (daemon.granted(), refusals(&daemon));
        Foreign(world.client()).knock(&device, &[&AHEAD[..], &["--open-for", "1"]].concat());
        e2e::until("it is decided", || daemon.granted() + refusals(&daemon) > granted + refused);
        daemon.granted() > granted
    };
    assert!(knock());
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);

    let filler = format!("{state}/filler");
    broker.run(&["dd", "if=/dev/zero", &format!("of={filler}"), "bs=4k"]).exits(1);
    // What is left of the file's last block takes a few packets more, 64 at most.
    let more = (0..70).take_while(|_| knock()).count();
    assert!(more < 70, "so many can't have been recorded");
    daemon.tells(&["ERROR", "client=press-17", "decision=\"refused\"", "No space left"]);

    broker.run(&["rm", &filler]).success();
    assert!(knock());
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
}

#[test]
fn a_daemon_that_cannot_write_its_state_says_so_and_leaves_the_door_shut() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    door.run(&["firewall", "install"]).success();
    let state = door.state().display().to_string();
    world.broker().run(&["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", &state]).success();
    let refused = door.run(&["run"]);
    assert!(!refused.is_success(), "{refused}");
    refused.says(&state);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

/// The file of accepted packets: the one in the state folder whose name says so.
fn seen_file(door: &Door<'_>) -> std::path::PathBuf {
    let files = fs::read_dir(door.state()).expect("list the state folder").flatten();
    let file = files.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seen"))
    });
    file.expect("a file of accepted packets")
}
