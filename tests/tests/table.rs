//! The kernel's table is compared by what it does, read whatever is in its sets, and put in without waiting for nft.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use e2e::door::{MQTTS, broker4};
use e2e::table::{elements, holds};
use e2e::until::until;
use e2e::{Daemon, Device, Door, Echo, Settings, State, World};

/// A table with every kind of rule: networks and interfaces that need no knock, a filter by tags, bans from everything.
const TABLES: &str = "[allow]\nnetworks = [\"198.51.100.0/24\", \"203.0.113.7/32\", \"2001:db8:7::/48\"]\n\
     interfaces = [\"wg0\", \"wg1\"]\n[prefilter]\nmode = \"on\"\n[ban]\nscope = \"host\"\n[reply]\nenabled = true\n";

struct Host<'w> {
    world: &'w World,
    door: Door<'w>,
    device: Device<'w>,
    _echo: Echo,
}

impl<'w> Host<'w> {
    fn new(world: &'w World, tables: &str) -> Self {
        let door = Door::new(world, &Settings { tables, ..Settings::default() });
        let device = door.enrol("press-17");
        Self { world, door, device, _echo: Echo::start(world.broker(), &["tcp/8883"]) }
    }

    fn table(&self) -> String {
        let list = ["nft", "--handle", "list", "table", "inet", "knockd"];
        self.world.broker().run(&list).success().stdout
    }

    #[track_caller]
    fn is_open_to(&self, host: e2e::Host<'_>) {
        assert_eq!(host.tcp(broker4(self.world), MQTTS), State::Open);
    }

    #[track_caller]
    fn is_shut_to(&self, host: e2e::Host<'_>) {
        assert_eq!(host.tcp(broker4(self.world), MQTTS), State::Filtered);
    }
}

fn repairs(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains(" repair=")).count()
}

/// A rule as nft lists it: its chain, handle and comment.
fn rules(table: &str) -> Vec<(String, String, String)> {
    let mut chain = String::new();
    let mut rules = Vec::new();
    for line in table.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.split(' ').next().expect("a name").to_owned();
        }
        if let Some((_, rest)) = line.split_once(" comment \"") {
            let (comment, rest) = rest.split_once('"').expect("the comment's end");
            let handle = rest.trim().strip_prefix("# handle ").expect("a handle");
            rules.push((chain.clone(), handle.to_owned(), comment.to_owned()));
        }
    }
    rules
}

#[test]
fn every_rule_that_is_replaced_under_its_own_comment_is_found_and_put_right() {
    let world = World::new();
    let host = Host::new(&world, TABLES);
    let daemon = host.door.ready();
    let count = rules(&host.table()).len();
    assert!(count > 20, "{}", host.table());
    for at in 0..count {
        let (chain, handle, comment) = rules(&host.table()).swap_remove(at);
        let before = repairs(&daemon);
        world.broker().nft(&format!(
            "replace rule inet knockd {chain} handle {handle} counter accept comment \"{comment}\""
        ));
        until("it is put right", || repairs(&daemon) > before);
        daemon.tells(&[
            "table-repaired",
            &format!("rule \"{comment}\" of chain {chain} does something else"),
        ]);
        host.door.run(&["firewall", "status"]).success();
    }
    host.is_shut_to(world.attacker());
}

#[test]
fn every_attribute_of_sets_chains_and_rules_that_is_changed_is_found_and_put_right() {
    let world = World::new();
    let host = Host::new(&world, TABLES);
    let daemon = host.door.ready();
    let script = host.door.run(&["firewall", "print"]).success().stdout;
    let dump = &script[script.find("table inet knockd {\n").expect("the table as a whole")..];
    let changes = [
        ("table inet knockd {", "table inet knockd {\n\tflags dormant;", "the table has flags"),
        ("size 1048576;", "size 512;", "set door4 has another type"),
        ("timeout 30s;", "timeout 1h;", "set door4 has another type"),
        ("timeout 6h;", "timeout 7h;", "set ban4 has another type"),
        ("flags timeout;", "flags timeout,dynamic;", "has another type, size or timeout"),
        ("priority -300", "priority -299", "chain early hooks in elsewhere"),
        ("198.51.100.0/24", "198.51.0.0/16", "does something else"),
        ("\"wg1\"", "\"eth0\"", "does something else"),
        ("limit rate over", "limit rate", "\"the junk budget"),
        ("tcp . 8883", "tcp . 8884", "set protected holds"),
        ("nd-router-solicit, ", "", "\"IPv6 neighbours find each other"),
        ("notrack counter", "counter", "does something else"),
    ];
    for (from, to, told) in changes {
        assert!(dump.contains(from), "{from:?} isn't in {dump}");
        let before = repairs(&daemon);
        let changed = dump.replacen(from, to, 1);
        world.broker().nft(&format!("delete table inet knockd\n{changed}"));
        until(&format!("{to:?} is put right"), || repairs(&daemon) > before);
        let log = daemon.log();
        let event = log.lines().rfind(|line| line.contains(" repair=")).expect("a repair");
        assert!(event.contains(told), "{from:?} -> {to:?}: {event}");
        host.door.run(&["firewall", "status"]).success();
        host.is_shut_to(world.attacker());
    }
    host.device.opens(&["--open-for", "600s"]);
}

/// A program nft of our own in front of the other one.
fn nft_with(world: &World, script: &str) -> (PathBuf, String) {
    let folder = world.dir().join("bin");
    fs::create_dir_all(&folder).expect("make a folder");
    let real = world.broker().run(&["sh", "-c", "command -v nft"]).success().stdout;
    let program = folder.join("nft");
    let text = format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", real.trim());
    fs::write(&program, text).expect("write a program");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("set its mode");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.display());
    (folder, path)
}

#[test]
fn an_nft_that_hangs_costs_no_knock_no_repair_and_no_restart() {
    let world = World::new();
    let host = Host::new(&world, "");
    let (folder, path) = nft_with(&world, "[ -e \"$(dirname \"$0\")/hang\" ] && exec sleep 600");
    let daemon = host.door.start_with(&[("PATH", &path)]);
    daemon.wait_out(std::time::Duration::from_secs(1));
    fs::write(folder.join("hang"), "").expect("write a file");

    host.device.opens(&["--open-for", "600s"]);
    world.broker().nft("flush ruleset");
    daemon.tells(&["table-repaired", "the whole table"]);
    host.is_open_to(world.client());
    host.is_shut_to(world.attacker());

    // A changed table waits for nft, and nothing else does.
    let tables = "[allow]\nnetworks = [\"192.0.2.0/24\"]\n";
    host.door.configure(&Settings { tables, ..Settings::default() });
    daemon.reload();
    let granted = daemon.granted();
    host.device.opens(&["--open-for", "600s"]);
    // The door was open before: that it answers doesn't say that the knock is dealt with.
    until("the knock is granted", || daemon.granted() == granted + 1);
    assert!(!daemon.has_told(&["reload-refused"]), "nft was given up before the knock");
    daemon.tells(&["reload-refused", "it took more than 10 s"]);
    host.door.configure(&Settings::default());
    drop(daemon);

    let daemon = host.door.start_with(&[("PATH", &path)]);
    daemon.tells(&["nft-failed", "it took more than 10 s"]);
    host.is_open_to(world.client());
    host.device.opens(&["--open-for", "600s"]);
    // And the table is mended by what was found.
    world.broker().nft("flush ruleset");
    daemon.tells(&["table-repaired", "the whole table"]);
    host.is_open_to(world.client());
    host.is_shut_to(world.attacker());
}

#[test]
fn an_nft_without_json_is_enough() {
    let world = World::new();
    let host = Host::new(&world, "");
    let no_json = "case \"$*\" in *-j*|*--json*) echo 'Error: JSON support not compiled-in' >&2; exit 1;; esac";
    let (_, path) = nft_with(&world, no_json);
    let env = [("PATH", path.as_str())];
    let config = host.door.config();
    let knockd = e2e::binaries::path("knockd");
    let run = |args: &[&str]| {
        let argv = [&[knockd.as_str(), "--config", config.to_str().expect("UTF-8")], args].concat();
        world.broker().run_with(&argv, &env, "")
    };
    run(&["firewall", "install"]).success().says("is in");
    run(&["firewall", "status"]).success().says("whole");
    let daemon = host.door.start_with(&env);
    daemon.wait_out(std::time::Duration::from_secs(1));
    host.device.opens(&["--open-for", "600s"]);
    let status = run(&["status", "--json"]).success().json();
    assert_eq!(status["table"]["whole"], true, "{status}");
    let drops = status["kernel-drops"].as_array().expect("the kernel's counters");
    assert!(!drops.is_empty(), "{status}");
    let named = |env: &[(&str, &str)]| {
        let argv = [&knockd, "--config", config.to_str().expect("UTF-8"), "doctor", "--json"];
        let found = world.broker().run_with(&argv, env, "").json();
        let found = found["findings"].as_array().expect("a list").clone();
        found.iter().any(|it| it["id"] == "nft-without-json")
    };
    assert!(named(&env) && !named(&[]), "the doctor names it, and no other nft");
    world.broker().nft("flush ruleset");
    daemon.tells(&["table-repaired", "the whole table"]);
    drop(daemon);
    run(&["firewall", "remove"]).success();
}

#[test]
fn the_ruleset_as_text_is_taken_back_by_nft_and_what_it_can_not_say_as_json_is_the_tags_alone() {
    let world = World::new();
    let host = Host::new(&world, "");
    let _daemon = host.door.ready();
    host.device.opens(&["--open-for", "600s"]);
    let run = |argv: &[&str], input: &str| world.broker().run_with(argv, &[], input);
    let text = run(&["nft", "list", "ruleset"], "").success().stdout;
    run(&["nft", "--check", "--file", "-"], &text).success();
    let json = run(&["nft", "--json", "list", "ruleset"], "").success().json();
    // Without the set whose type is a part of a packet, and the rules that look into it.
    let mut said = json.clone();
    said["nftables"]
        .as_array_mut()
        .expect("a list")
        .retain(|it| it["set"]["name"] != "tags" && !it["rule"].to_string().contains("@tags"));
    assert_ne!(said, json);
    run(&["nft", "--json", "--check", "--file", "-"], &said.to_string()).success();
}

#[test]
fn a_flow_table_that_takes_connections_over_is_named_with_the_command_that_ends_it() {
    let world = World::new();
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\nto = [\"10.78.0.2\"]\n";
    let _inner = world.behind_broker();
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let _daemon = door.ready();
    // The kernel of the tests may have no flow tables: what nft says of one is said by a program of our own.
    let flow = r#"{"nftables": [
        {"table": {"family": "inet", "name": "fast", "handle": 7}},
        {"chain": {"family": "inet", "table": "fast", "name": "forward", "handle": 1, "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "fast", "chain": "forward", "handle": 3, "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}},
            {"flow": {"op": "add", "flowtable": "@f"}}]}}
    ]}"#;
    fs::write(world.dir().join("flow.json"), flow).expect("write a file");
    let says = format!(
        "case \"$*\" in *list*ruleset*) exec cat '{}';; esac",
        world.dir().join("flow.json").display()
    );
    let (_, path) = nft_with(&world, &says);
    let knockd = e2e::binaries::path("knockd");
    let config = door.config();
    let argv = [&knockd, "--config", config.to_str().expect("UTF-8"), "doctor", "--json"];
    let named = |env: &[(&str, &str)]| {
        let found = world.broker().run_with(&argv, env, "").json();
        let mut found = found["findings"].as_array().expect("a list").clone();
        found.retain(|it| it["id"] == "flow-offloaded");
        found
    };
    let found = named(&[("PATH", &path)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["what"].as_str().expect("text").contains("tcp/8883"), "{found:?}");
    let mend = found[0]["mend"].as_str().expect("text");
    assert_eq!(mend, "nft delete rule inet fast forward handle 3");
    assert_eq!(named(&[]), Vec::<serde_json::Value>::new());
}

#[test]
fn what_is_too_much_to_be_carried_into_a_table_that_is_put_in_anew_is_told() {
    let world = World::new();
    let host = Host::new(&world, "");
    host.door.run(&["firewall", "install"]).success();
    let script = host.door.run(&["firewall", "print"]).success().stdout;
    let dump = &script[script.find("table inet knockd {\n").expect("the table as a whole")..];
    // The kernel can't change a set's size: it has to be made anew.
    let other = dump.replacen("size 1048576;", "size 524288;", 1);
    assert_ne!(other, dump);
    for (thousands, is_told) in [(2, false), (66, true)] {
        world.broker().nft(&format!("delete table inet knockd\n{other}"));
        open_strays(&world, thousands);
        let told = host.door.run(&["firewall", "install"]).success();
        assert_eq!(told.stderr.contains("what was in door4"), is_told, "{told}");
        let left = if is_told { 0 } else { usize::from(thousands) * 1_000 };
        assert_eq!(elements(&world, "door4").len(), left);
    }
}

/// Opens thousands of doors for addresses of nobody, as many at a time as anybody may.
fn open_strays(world: &World, thousands: u16) {
    for part in 0..thousands {
        let doors: Vec<String> = (0..1_000)
            .map(|n| format!("10.{}.{}.{} . tcp . 8883 timeout 1h", 100 + part, n >> 8, n & 255))
            .collect();
        world.broker().nft(&format!("add element inet knockd door4 {{ {} }}", doors.join(", ")));
    }
}

#[test]
fn doors_that_somebody_opens_by_the_thousand_are_shut_and_live_grants_are_back() {
    let world = World::new();
    let host = Host::new(&world, "");
    let daemon = host.door.ready();
    host.device.opens(&["--open-for", "600s"]);
    host.door.run(&["ban", "198.51.100.7"]).success();
    daemon.pause();
    open_strays(&world, 10);
    daemon.resume();
    until("the doors are shut", || elements(&world, "door4").len() <= 1);
    until("the grant is back", || elements(&world, "door4").len() == 1);
    assert!(holds(&world, "block4", "198.51.100.7"));
    host.is_open_to(world.client());
    host.is_shut_to(world.attacker());
    host.door.run(&["firewall", "status"]).success();
    drop(daemon);
}

#[test]
fn a_start_shuts_doors_of_nobody_by_the_thousand_and_keeps_live_grants() {
    let world = World::new();
    let host = Host::new(&world, "");
    let daemon = host.door.ready();
    host.device.opens(&["--open-for", "600s"]);
    host.door.run(&["ban", "198.51.100.7"]).success();
    daemon.kill9();
    open_strays(&world, 10);
    let _daemon = host.door.start();
    assert_eq!(elements(&world, "door4").len(), 1);
    assert!(holds(&world, "block4", "198.51.100.7"));
    host.is_open_to(world.client());
}

#[test]
fn a_table_that_is_put_in_while_no_daemon_runs_has_the_doors_of_live_grants() {
    let world = World::new();
    let host = Host::new(&world, "");
    let daemon = host.door.ready();
    host.device.opens(&["--open-for", "600s"]);
    daemon.kill9();
    world.broker().nft("flush ruleset");
    host.door.run(&["firewall", "install"]).success();
    host.is_open_to(world.client());
    host.is_shut_to(world.attacker());
    let doors = elements(&world, "door4");
    assert!(doors.len() == 1 && doors[0].1 <= 600, "{doors:?}");
    // Not those of a client that may no longer hold them.
    host.door.run(&["client", "disable", "press-17"]).success();
    world.broker().nft("flush ruleset");
    host.door.run(&["firewall", "install"]).success();
    host.is_shut_to(world.client());
}

#[test]
fn a_ruleset_that_flushes_everything_keeps_doors_bans_and_tags_while_no_daemon_runs() {
    let world = World::new();
    let host = Host::new(&world, "[prefilter]\nmode = \"on\"\njunk-budget = 1\n");
    let daemon = host.door.ready();
    host.device.opens(&["--open-for", "600s"]);
    host.door.run(&["ban", "198.51.100.7"]).success();
    daemon.kill9();
    let tags = elements(&world, "tags");
    assert!(!tags.is_empty());
    let theirs = world.dir().join("nftables.conf");
    fs::write(&theirs, "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; }; }\n")
        .expect("write a ruleset");
    host.door.run(&["firewall", "install", "--with", theirs.to_str().expect("UTF-8")]).success();
    let names = |elements: Vec<(String, u64)>| -> Vec<String> {
        let mut names: Vec<String> = elements.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    assert_eq!(names(elements(&world, "tags")), names(tags));
    assert!(holds(&world, "block4", "198.51.100.7"));
    host.is_open_to(world.client());
}
