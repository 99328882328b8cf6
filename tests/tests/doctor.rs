//! `knockd doctor`: what keeps a knock from letting a device in is named, and the command that it names mends it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::diagnosis::{findings, ids, mend, the};
use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Daemon, Device, Door, Echo, Settings, State, World};
use serde_json::Value;

/// A firewall as an admin writes one, behind which everything works, and closed ports are silent.
const SOUND: &str = "table inet filter { chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iif lo accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 8883 accept
    udp dport 62201 accept
}; }";

fn running(world: &World) -> (Echo, Door<'_>, Device<'_>, Daemon) {
    let echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    (echo, door, device, daemon)
}

#[test]
fn where_all_is_well_the_doctor_finds_nothing_and_says_how_many_checks_passed() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
    let answer = door.run(&["doctor", "--json"]).success().json();
    let passed = answer["passed"].as_array().expect("checks");
    for check in [
        "configuration",
        "kernel",
        "table",
        "daemon",
        "knock-port",
        "services",
        "firewall",
        "files",
        "memory-of-packets",
        "silence",
    ] {
        assert!(passed.contains(&check.into()), "{check} in {answer}");
    }
    door.run(&["doctor"]).success().says(&format!("{} checks passed", passed.len()));
}

#[test]
fn the_doctor_changes_nothing() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    let before = world.broker().ruleset();
    door.run(&["doctor"]);
    assert_eq!(world.broker().ruleset(), before);
}

#[test]
fn a_rule_that_drops_the_port_behind_the_door_is_named_and_its_command_lets_the_device_in() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    world.broker().nft(
        "table inet site { chain guests { tcp dport 8000-8999 drop; }; chain late { \
         type filter hook input priority 10; iifname eth0 jump guests; }; }",
    );
    device.knock(world.client(), &["-4"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    door.run(&["doctor"]).exits(69).says("nft insert rule");
    let found = the(&findings(&door), "firewall-drops");
    assert_eq!(found["severity"], "fault");
    assert!(found["what"].as_str().expect("text").contains("tcp/8883"), "{found}");
    let place = found["where"].as_str().expect("a place");
    for part in ["table inet site", "chain guests", "handle ", "tcp dport 8000-8999 drop"] {
        assert!(place.contains(part), "{part}: {place}");
    }
    mend(&world, &found);
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn a_policy_that_drops_the_knock_is_named_also_where_a_rule_lets_new_packets_alone_in() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    // The door takes knocks out of conntrack: to it they are untracked, not new.
    world.broker().nft(&SOUND.replace("udp dport 62201", "udp dport 62201 ct state new"));
    device.knock(world.client(), &["-4", "--wait=1s"]).exits(69);
    let found = the(&findings(&door), "firewall-drops");
    assert!(found["what"].as_str().expect("text").contains("udp/62201"), "{found}");
    let place = found["where"].as_str().expect("a place");
    assert!(place.contains("chain input, policy drop"), "{place}");
    mend(&world, &found);
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn what_depends_on_the_sender_may_drop_and_is_no_fault() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let of_some = "ip saddr 10.77.0.0/24 tcp dport 8883 accept\nip6 saddr fd77::/64 tcp dport 8883";
    world.broker().nft(&SOUND.replace("tcp dport 8883", of_some));
    let found = findings(&door);
    assert_eq!(ids(&found), ["firewall-may-drop"], "{found:#?}");
    let may = the(&found, "firewall-may-drop");
    assert_eq!(may["severity"], "warning");
    assert!(may["what"].as_str().expect("text").contains("the device's address"), "{may}");

    world.broker().nft(&format!("delete table inet filter\n{SOUND}"));
    world.broker().nft(
        "table ip block { set bad { type ipv4_addr; }; chain c { type filter hook input \
         priority -20; ip saddr @bad drop; }; }",
    );
    let found = findings(&door);
    assert!(ids(&found).iter().all(|id| *id == "firewall-drops-some"), "{found:#?}");
    assert!(!found.is_empty());
    door.run(&["doctor"]).success();
}

#[test]
fn ufw_that_denies_is_named_with_the_command_of_its_own_that_lets_the_device_in() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    let enable = "set -e
        mkdir /run/ufw; cp -r /etc/ufw /run/ufw/etc; cp /etc/default/ufw /run/ufw/default
        mount --bind /run/ufw/etc /etc/ufw; mount --bind /run/ufw/default /etc/default/ufw
        ufw default deny incoming; ufw --force enable";
    world.broker().run(&["sh", "-c", enable]).success();
    device.knock(world.client(), &["-4", "--wait=1s"]).exits(69);

    let found = findings(&door);
    let drops: Vec<_> = found.iter().filter(|it| it["id"] == "firewall-drops").collect();
    for port in [format!("udp/{KNOCK_PORT}"), format!("tcp/{MQTTS}")] {
        let of_port =
            drops.iter().filter(|it| it["what"].as_str().is_some_and(|what| what.contains(&port)));
        assert!(of_port.count() > 0, "{port} in {found:#?}");
    }
    for drop in drops {
        assert!(drop["what"].as_str().expect("text").starts_with("ufw"), "{drop}");
        assert!(drop["mend"].as_str().expect("text").starts_with("ufw allow"), "{drop}");
        mend(&world, drop);
    }
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn rules_of_iptables_are_named_in_its_words_and_mended_by_it() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    let rule = "iptables -A INPUT -p tcp -m multiport --dports 1883,8883 -j REJECT";
    world.broker().run(&["sh", "-c", rule]).success();
    let found = the(&findings(&door), "firewall-drops");
    assert!(found["what"].as_str().expect("text").contains("IPv4"), "{found}");
    let place = found["where"].as_str().expect("a place");
    assert!(place.contains("--dports 1883,8883 -j REJECT"), "{place}");
    mend(&world, &found);
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn a_port_that_nobody_listens_at_or_on_loopback_only_is_named() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    world.broker().nft(SOUND);
    let found = the(&findings(&door), "nobody-listens");
    assert!(found["what"].as_str().expect("text").contains("tcp/8883"), "{found}");
    door.run(&["doctor"]).exits(69);

    let listen = "import socket, time\ns = socket.create_server(('127.0.0.1', 8883))\n\
                  print('serving', flush=True)\ntime.sleep(600)";
    let mut local = world.broker().spawn(&["python3", "-c", listen], &[]);
    local.wait_for("serving");
    the(&findings(&door), "listens-on-loopback");
    drop(local);
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    device.opens(&[]);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn without_a_daemon_that_is_said_and_a_program_that_has_its_port_is_named() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    world.broker().nft(SOUND);
    daemon.terminate();
    let found = findings(&door);
    assert_eq!(ids(&found), ["daemon-not-running", "knock-port-unheard"], "{found:#?}");
    let _thief = Echo::start(world.broker(), &["udp/62201"]);
    let found = findings(&door);
    let taken = the(&found, "knock-port-taken");
    assert!(taken["what"].as_str().expect("text").contains("packet"), "{taken}");
}

#[test]
fn a_table_that_is_gone_or_changed_is_named_and_mended() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    daemon.terminate();
    for (change, id) in [
        ("delete table inet knockd", "table-missing"),
        ("insert rule inet knockd gate tcp dport 8883 accept", "table-changed"),
    ] {
        world.broker().nft(change);
        let found = the(&findings(&door), id);
        assert_eq!(
            (&found["severity"], &found["mend"]),
            (&"fault".into(), &"knockd firewall install".into())
        );
        door.run(&["firewall", "install"]).success();
        assert!(!ids(&findings(&door)).contains(&id), "{id}");
    }
}

#[test]
fn files_that_others_can_read_or_write_are_named_and_mended() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    let key = fs::read_dir(door.clients()).expect("a folder").flatten().next().expect("a client");
    for (path, mode, id) in [
        (key.path(), 0o644, "file-exposed"),
        (door.state(), 0o777, "state-exposed"),
        (door.state().join("seen"), 0o666, "state-exposed"),
        (door.control(), 0o666, "control-exposed"),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set a mode");
        let found = the(&findings(&door), id);
        assert_eq!(found["severity"], "fault");
        let place = found["where"].as_str().expect("a place");
        assert!(place.contains(path.to_str().expect("UTF-8")), "{place}");
        mend(&world, &found);
        assert_eq!(findings(&door), Vec::<Value>::new());
    }
}

#[test]
fn closed_ports_that_answer_beside_a_silent_door_are_noted() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let closed = |port| world.attacker().nmap(broker4(&world), port);
    let found = findings(&door);
    let note = the(&found, "closed-ports-answer");
    assert_eq!((note["severity"].as_str(), closed(8884)), (Some("note"), State::Closed));
    door.run(&["doctor"]).success();
    world.broker().nft(SOUND);
    assert_eq!((findings(&door), closed(8884)), (Vec::new(), State::Filtered));
}

/// The attacker routes to the container's own address, which no door guards, until what the doctor says is done.
#[track_caller]
fn shut_the_containers_own_address(world: &World, door: &Door<'_>) {
    let container = "172.18.0.2".parse().expect("an address");
    world.ip(Some("attacker"), "route add 172.18.0.0/24 via 10.77.0.1");
    assert_eq!(world.attacker().tcp(container, MQTTS), State::Open);
    let found = the(&findings(door), "container-reached-directly");
    assert_eq!(found["severity"], "warning");
    mend(world, &found);
    assert_eq!(world.attacker().tcp(container, MQTTS), State::Filtered);
}

#[test]
fn a_port_that_is_published_past_the_door_is_named() {
    let world = World::new();
    let container = world.container(MQTTS);
    let _echo = Echo::start(container, &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    world.broker().nft(SOUND);
    device.opens(&[]);
    shut_the_containers_own_address(&world, &door);
    // Nobody listens on this host itself, and nobody needs to.
    assert_eq!(findings(&door), Vec::<Value>::new());

    world.broker().nft(
        "add rule ip docker PREROUTING fib daddr type local tcp dport 1884 dnat to 172.18.0.2:8883",
    );
    assert_eq!(world.attacker().tcp(broker4(&world), 1884), State::Open);
    let found = the(&findings(&door), "published-past-the-door");
    let what = found["what"].as_str().expect("text");
    assert!(what.contains("tcp/1884") && what.contains("172.18.0.2"), "{what}");
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"tcp/1884\"]\n";
    door.configure(&Settings { services, ..Settings::default() });
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.attacker().tcp(broker4(&world), 1884), State::Filtered);
    assert!(!ids(&findings(&door)).contains(&"published-past-the-door"));
}

#[test]
fn a_forward_chain_that_drops_what_is_led_to_a_container_is_named_and_mended() {
    let world = World::new();
    let container = world.container(MQTTS);
    let _echo = Echo::start(container, &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    world.broker().nft(SOUND);
    world.broker().nft(
        "table inet filter { chain forward { type filter hook forward priority 0; policy drop; \
         ct state established,related accept; }; }",
    );
    let found = the(&findings(&door), "firewall-drops");
    assert!(found["where"].as_str().expect("a place").contains("chain forward"), "{found}");
    mend(&world, &found);
    device.opens(&[]);
    shut_the_containers_own_address(&world, &door);
    assert_eq!(findings(&door), Vec::<Value>::new());
}

#[test]
fn a_bridge_of_containers_that_allow_forgot_is_noted() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    world.broker().nft(SOUND);
    world.ip(
        Some("broker"),
        "link add docker0 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0",
    );
    let found = the(&findings(&door), "containers-must-knock");
    let mend = found["mend"].as_str().expect("text");
    assert!(mend.contains("interfaces = [\"docker0\"]"), "{mend}");
    for tables in
        ["[allow]\ninterfaces = [\"docker0\"]\n", "[allow]\nnetworks = [\"172.16.0.0/12\"]\n"]
    {
        door.configure(&Settings { tables, ..Settings::default() });
        door.run(&["firewall", "install"]).success();
        assert!(!ids(&findings(&door)).contains(&"containers-must-knock"), "{tables}");
    }
    daemon.terminate();
}

#[test]
fn a_clock_behind_what_was_accepted_already_is_named() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    world.broker().nft(SOUND);
    device.opens(&[]);
    daemon.terminate();
    let clock = e2e::FakeClock::new(&world);
    clock.show(-3_600);
    door.run_by(&clock, &["doctor"]).exits(69).says("clock-behind");
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_line_and_the_rest_is_looked_at_all_the_same() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    fs::write(door.clients().join("bad.toml"), "[[client]]\nname = \"A\"\n").expect("write");
    let found = findings(&door);
    let wrong = found
        .iter()
        .find(|finding| finding["where"].as_str().is_some_and(|it| it.contains("bad.toml:2")));
    assert!(wrong.is_some_and(|finding| finding["severity"] == "fault"), "{found:#?}");
    assert!(ids(&found).contains(&"closed-ports-answer"), "{found:#?}");
}

#[test]
fn a_configuration_that_the_daemon_refused_and_one_that_waits_for_a_restart_are_told() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    world.broker().nft(SOUND);
    let bad = door.clients().join("bad.toml");
    fs::write(&bad, "[[client]]\nname = \"A\"\n").expect("write");
    fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).expect("set a mode");
    assert!(!door.run(&["reload"]).is_success());
    let refused = the(&findings(&door), "reload-refused");
    assert_eq!(refused["severity"], "fault");
    assert!(refused["what"].as_str().expect("text").contains("bad.toml:"), "{refused}");

    fs::remove_file(&bad).expect("remove it");
    door.set("listen", "[\"10.77.0.99:62201\"]");
    door.run(&["reload"]);
    let found = findings(&door);
    assert!(!ids(&found).contains(&"reload-refused"), "{found:#?}");
    let pending = the(&found, "restart-pending");
    assert!(pending["what"].as_str().expect("text").contains("listen"), "{pending}");
    assert_eq!(the(&found, "listen-elsewhere")["severity"], "fault");
}

#[test]
fn who_may_not_look_is_told_what_could_not_be_checked_and_that_is_not_taken_for_sound() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let (knockd, config) = (e2e::binaries::path("knockd"), door.config());
    let unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
    let doctor = [knockd.as_str(), "--config", config.to_str().expect("UTF-8"), "doctor"];
    let run = |more: &[&str]| world.broker().run(&[&unprivileged[..], &doctor, more].concat());
    let answer = run(&["--json"]).exits(77).json();
    assert_eq!((&answer["ok"], &answer["complete"]), (&true.into(), &false.into()));
    let unchecked = answer["unchecked"].as_array().expect("a list");
    for check in ["table", "firewall"] {
        assert!(
            unchecked.iter().any(|it| it["check"] == check && it["needs-root"] == true),
            "{answer}"
        );
        assert!(!answer["passed"].as_array().expect("a list").contains(&check.into()), "{answer}");
    }
    run(&[]).exits(77).says("could not be checked");
}
