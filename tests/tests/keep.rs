//! `knock --keep`: a door that stays open through renewals, changes of the network and restarts.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use e2e::door::{MQTTS, broker4, write_private};
use e2e::process::Process;
use e2e::table::elements;
use e2e::{Device, Door, Echo, Host, Mosquitto, Settings, State, Talk, World, binaries, until};
use nix::sys::signal::Signal;

/// Starts `knock --keep` with a device's profile on a host, over IPv4.
fn keep(device: &Device<'_>, host: Host<'_>, options: &[&str], env: &[(&str, &str)]) -> Process {
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let mut argv = vec![knock.as_str(), "--config", &profile, "-4", "--keep"];
    argv.extend_from_slice(options);
    host.spawn(&argv, env)
}

/// Waits until a device's packets were accepted so many times more.
fn until_renewed(daemon: &e2e::Daemon, times: usize) {
    let before = daemon.granted();
    until(&format!("it is renewed {times} times"), || daemon.granted() >= before + times);
}

/// Ends a process with SIGTERM, and returns its exit code.
fn terminate(process: &mut Process) -> Option<i32> {
    process.signal(Signal::SIGTERM);
    process.wait().code()
}

#[test]
fn a_session_lives_on_through_its_renewals_where_sessions_are_cut_and_ends_with_sigterm() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = "[grant]\nsessions = \"cut\"";
    let door = Door::new(&world, &Settings { tables, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "9s"], &[]);
    keeper.wait_for("tcp/8883 open at 10.77.0.1, and kept open");
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    // Four renewals, at least 3 s apart: more than the grant.
    let granted = daemon.granted();
    until("it is renewed 4 times", || {
        assert_eq!(elements(&world, "door4").len(), 1, "the door is never without its element");
        daemon.granted() >= granted + 4
    });
    session.works();

    assert_eq!(terminate(&mut keeper), Some(0));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
    session.is_dead();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert!(!daemon.has_told(&["decision=\"refused\""]));
}

#[test]
fn sigint_closes_the_door_too_and_is_no_failure() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &[], &[]);
    keeper.wait_for("kept open");
    let left = door.grants()[0]["remaining-s"].as_u64();
    assert!(left > Some(30), "it asks for more than the daemon's 30 s: {left:?}");
    keeper.signal(Signal::SIGINT);
    assert_eq!(keeper.wait().code(), Some(0));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn an_address_that_changes_in_mid_session_is_knocked_from_at_once_and_the_session_comes_back() {
    let world = World::new();
    let mosquitto = Mosquitto::start(world.broker());
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    // The first renewal would come after more than three minutes.
    let mut keeper = keep(&device, world.client(), &["--open-for", "600s"], &[]);
    keeper.wait_for("kept open");
    let mut subscriber = reconnecting(&mosquitto, world.client());
    assert!(mosquitto.publish(world.broker(), "press/17", "before", &[]));
    subscriber.wait_for("press/17: before");

    world.ip(
        Some("client"),
        "addr del 10.77.0.2/24 dev eth0\naddr add 10.77.0.22/24 broadcast 10.77.0.255 dev eth0",
    );
    keeper.wait_for("has changed: knocked from 10.77.0.22");
    daemon.tells(&["client=press-17", "source=10.77.0.22", "decision=\"granted\""]);
    until("the session comes back and hears of a message", || {
        mosquitto.publish(world.broker(), "press/17", "after", &[])
            && subscriber.stdout().contains("press/17: after")
    });
    assert_eq!(terminate(&mut keeper), Some(0));
    until("the new address has no grant left", || {
        door.grants().iter().all(|grant| grant["address"] != "10.77.0.22")
    });
}

/// A subscriber that notices within some seconds that its connection is dead, and connects again: where
/// `mosquitto_sub` ends, it is started again, as a service manager does it.
fn reconnecting(mosquitto: &Mosquitto, host: Host<'_>) -> Process {
    let again = "while :; do stdbuf -oL mosquitto_sub \"$@\"; sleep 0.2; done";
    let mut argv = vec!["sh", "-c", again, "sh"];
    let login = mosquitto.login();
    argv.extend(login.map(|word| if word == "broker" { "10.77.0.1" } else { word }));
    argv.extend_from_slice(&["-d", "-k", "5", "-q", "1", "-t", "press/#", "-F", "%t: %p"]);
    let mut process = host.spawn(&argv, &[]);
    process.wait_for("received SUBACK");
    process
}

#[test]
fn a_door_comes_back_by_itself_after_the_brokers_host_was_restarted_with_its_memory_or_without() {
    let world = World::new();
    let mosquitto = Mosquitto::start(world.broker());
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let mut daemon = door.ready();
    let options = ["--open-for", "9s", "--wait=2s"];
    let mut keeper = keep(&device, world.client(), &options, &[]);
    keeper.wait_for("kept open");
    let mut subscriber = reconnecting(&mosquitto, world.client());
    let mut mosquitto = Some(mosquitto);
    for has_memory in [true, false] {
        drop(mosquitto.take());
        daemon.kill9();
        if !has_memory {
            fs::remove_dir_all(door.state()).expect("remove the state folder");
            fs::create_dir(door.state()).expect("make the state folder");
        }
        // As a boot does it: the table comes in new, and its ports are shut before anybody runs.
        world.broker().nft("delete table inet knockd");
        door.run(&["firewall", "install"]).success();
        assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
        let broker = Mosquitto::start(world.broker());
        daemon = door.start();
        world.client().tcp_until(broker4(&world), MQTTS, State::Open);
        let message = format!("memory {has_memory}");
        until("the session comes back and hears of a message", || {
            broker.publish(world.broker(), "press/17", &message, &[])
                && subscriber.stdout().contains(&message)
        });
        mosquitto = Some(broker);
    }
    assert!(subscriber.is_running());
    assert_eq!(terminate(&mut keeper), Some(0));
}

#[test]
fn a_time_without_a_network_is_outlived_and_told_once() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "6s"], &[]);
    keeper.wait_for("kept open");
    world.ip(Some("client"), "link set eth0 down");
    keeper.wait_for("Network is unreachable");
    // Scaled down from a minute: longer than the grant, and several failures.
    door.wait_until_over();
    let before = daemon.granted();
    world.ip(Some("client"), "link set eth0 up");
    until("it is granted again", || daemon.granted() > before);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    until_renewed(&daemon, 2);
    let told = keeper.stderr();
    let complaints = told.lines().filter(|line| line.contains("Network is unreachable")).count();
    assert_eq!(complaints, 1, "{told}");
    assert_eq!(terminate(&mut keeper), Some(0));
}

#[test]
fn with_notify_open_the_service_manager_hears_that_it_is_ready_once_the_door_has_answered() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    door.run(&["firewall", "install"]).success();
    let path = world.dir().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bind a socket");
    manager.set_nonblocking(true).expect("don't wait");
    let mut heard = String::new();
    let mut hear = || {
        let mut buffer = [0; 4096];
        while let Ok(length) = manager.recv(&mut buffer) {
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
            heard.push('\n');
        }
        heard.clone()
    };
    let path = path.display().to_string();
    let env = [("NOTIFY_SOCKET", path.as_str())];
    let mut keeper = keep(&device, world.client(), &["--notify=open", "--wait=500ms"], &env);
    keeper.wait_for("knocking on until it opens");
    until("the state is told", || hear().contains("STATUS=no door opens: 10.77.0.1: no answer"));
    assert!(!hear().contains("READY=1"));
    let _daemon = door.ready();
    until("it is ready", || hear().lines().any(|line| line == "READY=1"));
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    assert_eq!(hear().matches("READY=1").count(), 1);
    assert_eq!(terminate(&mut keeper), Some(0));
    assert!(hear().contains("STOPPING=1"));
}

#[test]
fn the_command_is_a_child_that_gets_the_signals_and_whose_exit_status_is_handed_on() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let script = "trap 'echo heard USR1' USR1; trap 'echo heard HUP' HUP
        trap 'echo heard TERM; exit 7' TERM; echo started
        while :; do sleep 0.05; done";
    let mut keeper = keep(&device, world.client(), &["--", "sh", "-c", script], &[]);
    keeper.wait_for("started");
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    for (signal, said) in [(Signal::SIGUSR1, "heard USR1"), (Signal::SIGHUP, "heard HUP")] {
        keeper.signal(signal);
        keeper.wait_for(said);
    }
    keeper.signal(Signal::SIGTERM);
    keeper.wait_for("heard TERM");
    assert_eq!(keeper.wait().code(), Some(7));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    for (command, code) in
        [(&["sh", "-c", "kill -9 $$"][..], 137), (&["true"], 0), (&["/nowhere/none"], 127)]
    {
        let closed = |log: &str| log.matches("decision=\"closed\"").count();
        let before = closed(&daemon.log());
        let mut keeper = keep(&device, world.client(), &[&["--"], command].concat(), &[]);
        assert_eq!(keeper.wait().code(), Some(code), "{command:?}");
        until("the door is closed", || closed(&daemon.log()) == before + 1);
    }
}

#[test]
fn what_is_typed_at_the_terminal_reaches_the_command_once_and_its_exit_status_counts() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let script = "trap 'n=$((n + 1)); echo heard $n' INT; n=0; echo started
        while [ ! -e stop ]; do sleep 0.05; done; echo $n in all; exit 5";
    fs::write(world.dir().join("child.sh"), script).expect("write a script");
    let line = format!(
        "exec {} --config {} -4 --keep -- sh child.sh",
        binaries::path("knock"),
        device.profile().display()
    );
    // script(1) runs it on a terminal of its own, by a shell that would end by the first ^C.
    let mut terminal = world.client().spawn(&["script", "-qec", &line, "/dev/null"], &[]);
    terminal.wait_for("started");
    for n in [1, 2] {
        terminal.write_line("\u{3}");
        terminal.wait_for(&format!("heard {n}"));
    }
    fs::write(world.dir().join("stop"), "").expect("write a file");
    terminal.wait_for("2 in all");
    assert_eq!(terminal.wait().code(), Some(5));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
}

#[test]
fn a_command_does_not_run_before_the_door_has_opened() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    door.run(&["firewall", "install"]).success();
    let command = ["--wait=300ms", "--", "echo", "the command ran"];
    let mut keeper = keep(&device, world.client(), &command, &[]);
    keeper.wait_for("knocking on until it opens");
    assert_eq!(terminate(&mut keeper), Some(128 + Signal::SIGTERM as i32));
    assert!(!keeper.stdout().contains("the command ran"));
}

#[test]
fn sighup_rereads_the_profile_and_a_mistake_in_it_leaves_everything_as_it_was() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let other = door.enrol("press-18");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "6s"], &[]);
    keeper.wait_for("kept open");
    let profile = fs::read_to_string(device.profile()).expect("read the profile");
    let new = fs::read_to_string(other.profile()).expect("read the profile");
    write_private(device.profile(), "[broker]\nserver = 1\n");
    keeper.signal(Signal::SIGHUP);
    keeper.wait_for(
        "press-17.toml:2: server is a text: put it in quotes; everything stays as it was",
    );
    until_renewed(&daemon, 1);
    write_private(device.profile(), &new);
    keeper.signal(Signal::SIGHUP);
    keeper.wait_for("the profile was read again");
    daemon.tells(&["client=press-18", "decision=\"granted\""]);
    assert_ne!(profile, new);
    assert_eq!(terminate(&mut keeper), Some(0));
    daemon.tells(&["client=press-18", "decision=\"closed\""]);
}

#[test]
fn a_resolver_that_does_not_answer_does_not_hold_renewals_up() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "9s"], &[]);
    keeper.wait_for("kept open");
    world.attacker().nft(
        "table ip silence { chain input { type filter hook input priority 0; udp dport 53 drop; }; }",
    );
    fs::write(world.dir().join("resolv.conf"), "nameserver 10.77.0.3\n").expect("write");
    fs::write(world.dir().join("hosts"), "127.0.0.1 localhost\n").expect("write");
    // With a timeout of two times five seconds, each answer comes later than the grant would end.
    let granted = daemon.granted();
    until("it is renewed 4 times", || {
        assert_eq!(elements(&world, "door4").len(), 1, "the door is never without its element");
        daemon.granted() >= granted + 4
    });
    assert_eq!(terminate(&mut keeper), Some(0));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
}

#[test]
fn a_server_that_grants_less_than_was_asked_is_knocked_at_more_often_and_it_is_told() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = "[grant]\nopen-for = \"1s\"\nmax = \"2s\"";
    let door = Door::new(&world, &Settings { tables, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "12s"], &[]);
    keeper.wait_for("shut before its time");
    until_renewed(&daemon, 4);
    assert_eq!(terminate(&mut keeper), Some(0));
}

#[test]
fn renewals_leave_no_descriptor_no_thread_and_no_line_behind() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "1s"], &[]);
    keeper.wait_for("kept open");
    // Connections and the resolver's thread come and go: what there is at the least is what stays.
    let least = |what: &str| {
        let folder = format!("/proc/{}/{what}", keeper.id());
        let count = || fs::read_dir(&folder).expect("list").count();
        (0..50).map(|_| (count(), std::thread::sleep(Duration::from_millis(10))).0).min()
    };
    let before = (least("fd"), least("task"));
    until_renewed(&daemon, 30);
    assert_eq!((least("fd"), least("task")), before);
    let lines = keeper.stdout();
    assert!(lines.lines().count() <= 3, "{lines}");
    assert_eq!(terminate(&mut keeper), Some(0));
}

#[test]
fn every_knock_is_an_event_in_json() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--json", "--open-for", "3s"], &[]);
    keeper.wait_for("\"open\"");
    until_renewed(&daemon, 2);
    assert_eq!(terminate(&mut keeper), Some(0));
    let lines = keeper.stdout();
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert!(of("sent").len() >= 3, "{lines}");
    assert_eq!(of("sent")[0]["to"], "10.77.0.1:62201");
    assert_eq!(of("sent")[0]["address"], "10.77.0.2");
    assert_eq!(of("open")[0]["port"], "tcp/8883");
    assert!(of("open")[0]["next-ms"].as_u64() <= Some(1_350), "{lines}");
    assert_eq!(of("closed").len(), 1, "{lines}");
}
