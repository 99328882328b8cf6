//! The daemon under a service manager: sockets that outlive it, readiness, and the watchdog.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use e2e::managed::{Managed, Plan};
use e2e::{Device, Door, Foreign, Settings, World, until};

const ANY: &[&str] = &["[::]:62201"];
/// Wide enough that what waits for a daemon to start isn't stale on a busy machine.
const SKEW: u64 = 6;

fn set_up(world: &World) -> (Door<'_>, Device<'_>) {
    let door = Door::new(world, &Settings { skew: SKEW, ..Settings::default() });
    let device = door.enrol("press-17");
    (door, device)
}

/// Waits until packets that are made now are accepted: a new state folder knows nothing of before.
fn wait_out() {
    let start = Instant::now();
    let skew = Duration::from_millis(SKEW * 1000 + 2);
    until("start + skew is over", || start.elapsed() > skew);
}

#[test]
fn knocks_that_arrive_while_no_daemon_runs_wait_and_are_answered_by_the_next_one() {
    let world = World::new();
    let (door, device) = set_up(&world);
    let others: Vec<_> = (0..20).map(|n| door.enrol(&format!("other-{n}"))).collect();
    let mut managed = Managed::start(world.broker(), &door, Plan { udp: ANY, ..Plan::default() });
    managed.writes("told READY=1", 1);
    wait_out();
    for (round, order) in (1..).zip(["SIGKILL", "SIGTERM"]) {
        managed.order("hold");
        managed.order(order);
        managed.writes("ended", round);
        device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
        for other in &others {
            other.knock(world.client(), &["-6", "--open-for", "600s"]).success();
        }
        managed.order("start");
        managed.writes("told READY=1", round + 1);
        let granted = || managed.log().matches("decision=\"granted\"").count();
        until("every knock is answered", || granted() == round * (1 + others.len()));
    }
    assert_eq!(door.grants().len(), 1 + others.len());
}

#[test]
fn a_packet_that_was_accepted_before_the_kill_is_a_replay_when_a_copy_has_waited() {
    let world = World::new();
    let (door, device) = set_up(&world);
    let mut managed = Managed::start(world.broker(), &door, Plan { udp: ANY, ..Plan::default() });
    managed.writes("told READY=1", 1);
    wait_out();
    let packet = Foreign(world.client()).datagram(&device, &[]);
    let tool = e2e::binaries::path("packet");
    let send = || {
        let argv = [tool.as_str(), "udp", "--to", "10.77.0.1:62201", "--hex", &packet];
        world.client().run(&argv).success();
    };
    send();
    until("it is accepted", || managed.log().contains("decision=\"granted\""));
    managed.order("hold");
    managed.order("SIGKILL");
    managed.writes("ended", 1);
    send();
    managed.order("start");
    until("the copy is refused", || managed.log().contains("reason=\"replayed\""));
    assert_eq!(managed.log().matches("decision=\"granted\"").count(), 1);
}

#[test]
fn the_control_socket_is_the_one_that_was_passed_and_stays_when_the_daemon_is_killed() {
    let world = World::new();
    let (door, _device) = set_up(&world);
    let mut managed = Managed::start(world.broker(), &door, Plan { udp: ANY, ..Plan::default() });
    managed.writes("told READY=1", 1);
    let made = fs::metadata(door.control()).expect("the control socket");
    door.run(&["status"]).success();
    managed.order("SIGKILL");
    managed.writes("told READY=1", 2);
    door.run(&["status"]).success();
    managed.order("SIGTERM");
    managed.writes("told READY=1", 3);
    let still = fs::metadata(door.control()).expect("the control socket");
    assert_eq!((still.ino(), still.mode()), (made.ino(), made.mode()));
}

#[test]
fn sockets_that_the_configuration_does_not_name_end_the_start_with_what_to_write_where() {
    let world = World::new();
    let (door, _device) = set_up(&world);
    let plan = Plan { udp: &["0.0.0.0:62202"], ..Plan::default() };
    let mut managed = Managed::start(world.broker(), &door, plan);
    managed.order("hold");
    managed.writes("ended: exit status: 78", 1);
    let log = managed.log();
    assert!(log.contains("listen = [\"0.0.0.0:62202\"]"), "{log}");
    assert!(log.contains("ListenDatagram=[::]:62201 in knockd.socket"), "{log}");
    managed.writes("told STATUS=can't start: the sockets that were passed", 1);
}

#[test]
fn a_default_that_nobody_wrote_down_is_content_with_a_socket_for_ipv4_alone() {
    let world = World::new();
    let (door, device) = set_up(&world);
    door.unset("listen");
    let plan = Plan { udp: &["0.0.0.0:62201"], ..Plan::default() };
    let managed = Managed::start(world.broker(), &door, plan);
    managed.writes("told READY=1", 1);
    // Events are told by a thread of their own.
    until("it is told", || managed.log().contains("listening on udp 0.0.0.0:62201"));
    wait_out();
    device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
    until("it answers", || door.grants().len() == 1);
}

#[test]
fn starts_that_fail_in_a_row_come_later_and_later_and_a_good_one_ends_that() {
    let world = World::new();
    let (door, _device) = set_up(&world);
    door.set("listen", "[\"[::]:62202\"]");
    let plan = Plan { udp: ANY, counts_failures: true, ..Plan::default() };
    let begin = Instant::now();
    let managed = Managed::start(world.broker(), &door, plan);
    managed.writes("ended: exit status: 78", 4);
    // At least 0, 250, 500 and 1,000 ms: less would fill the journal.
    assert!(begin.elapsed() >= Duration::from_millis(1_750), "{:?}", begin.elapsed());
    assert!(door.runtime().join("failed-starts").exists());
    door.set("listen", "[\"[::]:62201\"]");
    managed.writes("told READY=1", 1);
    until("nothing is counted any more", || !door.runtime().join("failed-starts").exists());
}

#[test]
fn the_manager_is_told_of_readiness_status_reloads_and_the_end() {
    let world = World::new();
    let (door, device) = set_up(&world);
    let mut managed = Managed::start(world.broker(), &door, Plan { udp: ANY, ..Plan::default() });
    managed.writes("told READY=1", 1);
    managed.writes("told STATUS=the table is whole; 1 clients, 0 grants, 0 bans", 1);
    until("it is told", || managed.log().contains("listening on udp [::]:62201"));
    wait_out();
    device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
    managed.writes("told STATUS=the table is whole; 1 clients, 1 grants, 0 bans", 1);

    door.enrol("press-18");
    managed.order("SIGHUP");
    managed.writes("told RELOADING=1", 1);
    managed.writes("told READY=1", 2);
    until("the reload is done", || managed.log().contains("clients: 1 added"));
    managed.order("hold");
    managed.order("SIGTERM");
    managed.writes("told STOPPING=1", 1);
    managed.writes("ended: exit status: 0", 1);
    let told = managed.told();
    let at = |what: &str| told.find(what).expect("it was told");
    assert!(at("told RELOADING=1") < told.rfind("told READY=1").expect("ready again"));
    assert!(told.rfind("told READY=1").expect("ready again") < at("told STOPPING=1"));
}

#[test]
fn a_quiet_daemon_is_left_alone_and_a_stuck_one_is_started_again_and_answers() {
    let world = World::new();
    let (door, device) = set_up(&world);
    let plan = Plan { udp: ANY, watchdog: Some(5_000), ..Plan::default() };
    let mut managed = Managed::start(world.broker(), &door, plan);
    managed.writes("told READY=1", 1);
    // Nothing arrives, for longer than it may say nothing.
    managed.writes("told WATCHDOG=1", 4);
    assert_eq!((managed.count("stuck"), managed.count("started")), (0, 1));
    managed.order("SIGSTOP");
    managed.writes("stuck", 1);
    managed.writes("told READY=1", 2);
    device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
    until("it answers", || door.grants().len() == 1);
}
