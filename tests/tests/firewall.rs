//! `knockd firewall`: what is in the kernel, and how it gets there and away.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::door::{MQTTS, broker4};
use e2e::{Door, Echo, Settings, State, World};

fn installed(world: &World) -> (Echo, Door<'_>) {
    let echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(world, &Settings::default());
    (echo, door)
}

#[test]
fn after_install_the_door_is_shut_without_any_daemon() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    door.run(&["firewall", "install"]).success();
    for host in [world.client(), world.attacker()] {
        assert_eq!(host.nmap(world.broker().v4(), MQTTS), State::Filtered);
        assert_eq!(host.nmap(world.broker().v6(), MQTTS), State::Filtered);
    }
}

#[test]
fn install_shuts_the_door_whatever_is_wrong_with_the_clients() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let entry = door.clients().join("exposed.toml");
    fs::write(&entry, "[[client]]\nname = \"press-17\"\n").expect("write an entry");
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).expect("set its mode");
    door.run(&["check"]).exits(78);
    door.run(&["firewall", "install"]).success().says("knockd won't start before that is mended");
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    fs::write(door.config(), "listen = 1").expect("write knockd.toml");
    door.run(&["firewall", "install"]).exits(78);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn with_a_wrong_configuration_the_table_that_was_in_last_goes_in_where_it_was_kept() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let kept = world.dir().join("table.nft");
    let fallback = format!("--fallback={}", kept.display());
    let install = || door.run(&["firewall", "install", &fallback]);
    fs::write(door.config(), "listen = 1").expect("write knockd.toml");
    install().exits(78).says("NOTHING IS SHUT");
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Open);

    door.configure(&Settings::default());
    install().success();
    let whole = world.broker().ruleset();
    fs::write(door.config(), "listen = 1").expect("write knockd.toml");
    world.broker().nft("flush ruleset");
    install().success().says("knockd.toml:1").says("THE CONFIGURATION IS WRONG");
    assert_eq!(world.broker().ruleset(), whole);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);

    // Whoever can write it could have root load any rules.
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o666)).expect("set its mode");
    install().exits(78).says("others can write to it");
}

#[test]
fn with_a_ruleset_that_flushes_all_it_goes_in_by_one_transaction_and_doors_and_bans_stay() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    door.run(&["ban", "192.0.2.7"]).success();
    // Nobody puts right what goes missing.
    daemon.kill9();
    let theirs = world.dir().join("nftables.conf");
    let rules =
        "flush ruleset\ntable ip theirs { chain input { type filter hook input priority 0; }; }\n";
    fs::write(&theirs, rules).expect("write a ruleset");
    let with = format!("--with={}", theirs.display());

    let mut monitor = world.broker().spawn(&["nft", "monitor"], &[]);
    world.broker().nft("table ip before {}");
    monitor.wait_for("add table ip before");
    door.run(&["firewall", "install", &with]).success();
    world.broker().nft("table ip after {}");
    monitor.wait_for("add table ip after");
    let seen = monitor.stdout();
    assert!(seen.contains("delete table inet knockd"), "{seen}");
    // The table of another name that shows what the kernel makes of ours is no part of it.
    let touching = |what: &str| {
        let transactions = seen.split("# new generation").enumerate();
        transactions.filter(|(_, it)| it.contains(what)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (ours, theirs) = (touching("table inet knockd\n"), touching("table ip theirs\n"));
    assert_eq!((ours.len(), &ours), (1, &theirs), "both at once: {seen}");

    assert!(world.broker().ruleset().contains("table ip theirs"));
    assert!(!world.broker().ruleset().contains("table ip before"));
    door.run(&["firewall", "status"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    assert!(
        world
            .broker()
            .run(&["nft", "list", "set", "inet", "knockd", "block4"])
            .stdout
            .contains("192.0.2.7")
    );
}

#[test]
fn a_daemon_that_runs_meanwhile_tells_that_no_port_showed_and_goes_on_to_take_knocks() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let theirs = world.dir().join("nftables.conf");
    fs::write(&theirs, "flush ruleset\ntable ip theirs {}\n").expect("write a ruleset");
    let with = format!("--with={}", theirs.display());
    door.run(&["firewall", "install", &with]).success();
    daemon.tells(&["event=\"table-replaced\"", "by=nft"]);
    device.opens(&["--open-for", "600s"]);
    assert!(!daemon.log().contains("table-repaired"), "{}", daemon.log());
    // With a door open, too.
    door.run(&["firewall", "install", &with]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    daemon.tells(&["event=\"table-replaced\"", "by=nft"]);
    assert!(!daemon.log().contains("table-repaired"), "{}", daemon.log());
}

#[test]
fn another_ruleset_that_nft_refuses_changes_nothing_and_the_message_names_its_line() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    door.run(&["firewall", "install"]).success();
    let before = world.broker().ruleset();
    let theirs = world.dir().join("nftables.conf");
    fs::write(&theirs, "flush ruleset\ntabel ip theirs {}\n").expect("write a ruleset");
    let with = format!("--with={}", theirs.display());
    door.run(&["firewall", "install", &with]).exits(69).says("nftables.conf:2");
    assert_eq!(world.broker().ruleset(), before);
    door.run(&["firewall", "install", "--with=nftables.conf"]).exits(64).says("from the root on");
}

#[test]
fn with_a_wrong_configuration_the_table_that_was_in_last_goes_in_with_another_ruleset_too() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let kept = format!("--fallback={}", world.dir().join("table.nft").display());
    let theirs = world.dir().join("nftables.conf");
    fs::write(&theirs, "flush ruleset\ntable ip theirs {}\n").expect("write a ruleset");
    let with = format!("--with={}", theirs.display());
    door.run(&["firewall", "install", &kept]).success();
    fs::write(door.config(), "listen = 1").expect("write knockd.toml");
    door.run(&["firewall", "install", &kept, &with]).success().says("THE CONFIGURATION IS WRONG");
    assert!(world.broker().ruleset().contains("table ip theirs"));
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn install_twice_is_install_once_and_keeps_live_grants_and_sessions() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let device = door.enrol("press-17");
    door.run(&["firewall", "install"]).success();
    let once = world.broker().ruleset();
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.broker().ruleset(), once);

    let _daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    let before = door.grants();
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(door.grants().len(), before.len());
    door.run(&["firewall", "status"]).success();
}

#[test]
fn install_follows_a_changed_configuration_and_keeps_live_grants() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/1883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    assert_eq!(world.attacker().tcp(broker4(&world), 1883), State::Open);
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"mqtt\"\nports = [\"tcp/1883\"]\n";
    door.configure(&Settings { services, ..Settings::default() });
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.attacker().tcp(broker4(&world), 1883), State::Filtered);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn print_shows_a_table_that_nft_takes_and_that_is_the_one_installed() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let before = world.broker().ruleset();
    let printed = door.run(&["firewall", "print"]).success();
    assert_eq!(world.broker().ruleset(), before, "print changes nothing");
    world.broker().nft(&printed.stdout);
    let by_hand = world.broker().ruleset();
    door.run(&["firewall", "status"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.broker().ruleset(), by_hand);
}

#[test]
fn install_touches_no_other_table() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    world.broker().nft("table inet filter { chain input { type filter hook input priority 0; }; }");
    let before = world.broker().ruleset();
    door.run(&["firewall", "install"]).success();
    assert!(world.broker().ruleset().contains(before.trim()));
    door.run(&["firewall", "remove"]).success();
    assert_eq!(world.broker().ruleset(), before);
}

#[test]
fn no_rule_that_another_table_has_opens_the_door_and_what_it_drops_stays_dropped() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    // Before and after ours at every hook that a packet to this host passes.
    let everywhere: String = [("prerouting", -400), ("prerouting", -160), ("prerouting", 300)]
        .into_iter()
        .chain([("input", -300), ("input", 0), ("input", 300)])
        .enumerate()
        .map(|(n, (hook, priority))| {
            format!(
                "chain c{n} {{ type filter hook {hook} priority {priority}; policy accept; \
                 tcp dport 8883 accept; }}; "
            )
        })
        .collect();
    world.broker().nft(&format!("table inet other {{ {everywhere} }}"));
    let untracked =
        "chain raw { type filter hook prerouting priority raw; tcp dport 8883 notrack; };";
    for more in ["", untracked] {
        world.broker().nft(&format!("table inet other {{ {more} }}"));
        door.run(&["firewall", "install"]).success();
        for address in [world.broker().v4(), world.broker().v6()] {
            assert_eq!(world.attacker().tcp(address, MQTTS), State::Filtered);
        }
    }
    world.broker().nft("delete table inet other");
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&[]);
    world.broker().nft(
        "table inet other { chain c { type filter hook input priority 0; tcp dport 8883 drop; }; }",
    );
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn status_tells_a_missing_table_a_missing_rule_and_a_foreign_rule() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    door.run(&["firewall", "status"]).exits(69).says("install");
    door.run(&["firewall", "install"]).success();
    door.run(&["firewall", "status"]).success();
    assert!(door.run(&["firewall", "status", "--json"]).success().json().is_object());

    // The last rule of the gate is the one that drops.
    let list = ["nft", "--handle", "--json", "list", "chain", "inet", "knockd", "gate"];
    let chain = world.broker().run(&list).success().json();
    let rules = chain["nftables"].as_array().expect("a list");
    let last = rules.iter().filter_map(|item| item["rule"]["handle"].as_u64()).next_back();
    let handle = last.expect("a rule").to_string();
    let delete = ["nft", "delete", "rule", "inet", "knockd", "gate", "handle", &handle];
    world.broker().run(&delete).success();
    door.run(&["firewall", "status"]).exits(69).says("gate");
    door.run(&["firewall", "install"]).success();
    door.run(&["firewall", "status"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    let open =
        ["nft", "insert", "rule", "inet", "knockd", "gate", "tcp", "dport", "8883", "accept"];
    world.broker().run(&open).success();
    door.run(&["firewall", "status"]).exits(69).says("gate");
    door.run(&["firewall", "install"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn remove_says_what_it_opens_up_and_opens_it() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let before = world.broker().ruleset();
    door.run(&["firewall", "install"]).success();
    door.run(&["firewall", "remove"]).success().says("8883");
    assert_eq!(world.broker().ruleset(), before);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn remove_is_refused_while_a_daemon_runs_which_would_put_the_table_in_again() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let daemon = door.start();
    door.run(&["firewall", "remove"]).exits(75).says("stop it first");
    door.run(&["firewall", "status"]).success();
    daemon.kill9();
    door.run(&["firewall", "remove"]).success();
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn run_puts_the_table_in_and_says_so_when_there_is_none() {
    let world = World::new();
    let (_echo, door) = installed(&world);
    let daemon = door.start();
    door.run(&["firewall", "status"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    daemon.terminate();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}
