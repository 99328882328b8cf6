//! The door mends itself, whoever takes the table out or changes it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::thread;
use std::time::{Duration, Instant};

use e2e::door::{MQTTS, broker4};
use e2e::{Daemon, Device, Door, Echo, Settings, State, Talk, World};
use e2e::{binaries, until::until};

/// A broker's host with the daemon at work, and a device that may open the port.
struct Guarded<'w> {
    world: &'w World,
    door: Door<'w>,
    device: Device<'w>,
    daemon: Daemon,
    _echo: Echo,
}

impl<'w> Guarded<'w> {
    fn new(world: &'w World) -> Self {
        Self::with(world, &Settings::default())
    }

    fn with(world: &'w World, settings: &Settings<'_>) -> Self {
        let echo = Echo::start(world.broker(), &["tcp/8883", "udp/5683"]);
        let door = Door::new(world, settings);
        let device = door.enrol_with("press-17", &["--service", "mqtts"]);
        let daemon = door.ready();
        Self { world, door, device, daemon, _echo: echo }
    }

    /// Has conntrack go on while our table is away, as it does on a host whose own rules ask for it.
    fn keep_conntrack(&self) {
        self.nft("table inet host { chain in { type filter hook input priority 0; ct state invalid drop; }; }");
    }

    fn nft(&self, script: &str) {
        self.world.broker().nft(script);
    }

    /// The events that tell of a repair.
    fn repairs(&self) -> Vec<String> {
        let log = self.daemon.log();
        log.lines().filter(|line| line.contains(" repair=")).map(str::to_owned).collect()
    }

    /// How often it looked at the table and found it whole.
    fn looks_in_vain(&self) -> usize {
        let log = self.daemon.log();
        log.lines().filter(|line| line.contains("is whole") && line.contains("DEBUG")).count()
    }

    /// Damages the table, and waits until that is put right: the event that tells of it.
    #[track_caller]
    fn damage(&self, script: &str) -> String {
        let before = self.repairs().len();
        self.nft(script);
        self.mended(before)
    }

    /// Waits for the next repair after so many: the event that tells of it.
    #[track_caller]
    fn mended(&self, before: usize) -> String {
        until("the table is put right", || self.repairs().len() > before);
        self.door.run(&["firewall", "status"]).success();
        self.repairs()[before].clone()
    }

    #[track_caller]
    fn is_shut_to(&self, host: e2e::Host<'_>) {
        assert_eq!(host.tcp(broker4(self.world), MQTTS), State::Filtered);
    }

    #[track_caller]
    fn is_open_to(&self, host: e2e::Host<'_>) {
        assert_eq!(host.tcp(broker4(self.world), MQTTS), State::Open);
    }

    fn connect(&self, host: e2e::Host<'_>) -> Talk {
        Talk::tcp(host, broker4(self.world), MQTTS, None)
    }

    fn remaining_s(&self) -> u64 {
        let grants = self.door.grants();
        assert_eq!(grants.len(), 1, "{grants:?}");
        grants[0]["remaining-s"].as_u64().expect("a number")
    }

    fn has_tags(&self) -> bool {
        let list = ["nft", "list", "set", "inet", "knockd", "tags"];
        self.world.broker().run(&list).stdout.contains("elements")
    }
}

/// A field of an event.
fn field<'e>(event: &'e str, name: &str) -> &'e str {
    let (_, rest) = event.split_once(&format!(" {name}=")).expect("the field");
    rest.split_whitespace().next().expect("a value")
}

fn open_ms(event: &str) -> u64 {
    field(event, "open_ms").parse().expect("milliseconds")
}

#[test]
fn whatever_is_done_to_the_table_is_undone_and_told_while_grants_and_sessions_live_on() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "600s"]);
    let mut session = guarded.connect(world.client());
    session.works();
    let banned = "198.51.100.7";
    guarded.door.run(&["ban", banned]).success();
    let drop_rule = {
        let list = ["nft", "--handle", "list", "chain", "inet", "knockd", "gate"];
        let listed = world.broker().run(&list).success().stdout;
        let line = listed.lines().rfind(|line| line.contains("everybody else")).expect("a rule");
        line.rsplit("# handle ").next().expect("a handle").to_owned()
    };
    let damages = [
        (format!("delete rule inet knockd gate handle {drop_rule}"), "everybody else"),
        ("flush ruleset".into(), "the whole table"),
        ("delete table inet knockd".into(), "the whole table"),
        ("delete chain inet knockd input".into(), "chain input is missing"),
        ("delete chain inet knockd closed".into(), "chain closed is missing"),
        ("add table inet knockd { flags dormant; }".into(), "the table has flags"),
        ("flush chain inet knockd early".into(), "of chain early"),
        ("flush chain inet knockd knock".into(), "of chain knock"),
        ("flush chain inet knockd input".into(), "of chain input"),
        ("flush chain inet knockd gate".into(), "of chain gate"),
        ("flush chain inet knockd closed".into(), "of chain closed"),
        ("insert rule inet knockd gate accept".into(), "chain gate has 1 rules that aren't ours"),
        ("insert rule inet knockd input tcp dport 8883 accept".into(), "chain input has 1 rules"),
        ("flush set inet knockd protected".into(), "set protected holds"),
        ("flush set inet knockd door4".into(), "1 doors of live grants"),
        ("flush set inet knockd block4".into(), "1 bans"),
        ("add element inet knockd ban4 { 10.77.0.2 timeout 600s }".into(), "1 bans"),
        (
            "add element inet knockd door4 { 10.77.0.3 . tcp . 8883 timeout 600s }".into(),
            "1 doors were open that nobody holds",
        ),
        (
            "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; }; }"
                .into(),
            "the whole table",
        ),
    ];
    for (script, missing) in damages {
        let left = guarded.remaining_s();
        let event = guarded.damage(&script);
        assert!(event.contains("WARN") && event.contains(missing), "{script}: {event}");
        assert!(event.contains("by=nft (process "), "{script}: {event}");
        assert!(guarded.remaining_s() <= left, "{script}: the grant has become longer");
        guarded.is_open_to(world.client());
        guarded.is_shut_to(world.attacker());
        session.works();
        let bans = guarded.door.run(&["bans", "--json"]).success().json();
        let sources: Vec<_> = bans["bans"].as_array().into_iter().flatten().collect();
        assert_eq!(sources.len(), 1, "{script}: {bans}");
        assert_eq!(sources[0]["source"], banned, "{script}: {bans}");
    }
    assert!(world.broker().ruleset().contains("table inet filter"), "other tables are left alone");
}

#[test]
fn an_event_tells_what_was_missing_since_when_for_how_long_and_how_often() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    for repair in ["1", "2"] {
        let event = guarded.damage("flush ruleset");
        assert!(event.contains("missing=the whole table"), "{event}");
        assert_eq!(field(&event, "repair"), repair, "{event}");
        assert!(field(&event, "since").ends_with('Z'), "{event}");
        assert!(open_ms(&event) < 30_000, "{event}");
    }
    let status = guarded.door.run(&["status", "--json"]).success().json();
    assert_eq!(status["table"]["repairs"], 2, "{status}");
    assert_eq!(status["table"]["lacked"], "the whole table", "{status}");
    assert!(status["table"]["failing"].is_null(), "{status}");
}

#[test]
fn the_table_is_put_right_in_milliseconds() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    let mut times: Vec<u64> = (0..9).map(|_| open_ms(&guarded.damage("flush ruleset"))).collect();
    times.sort_unstable();
    println!("open for {times:?} ms; median {} ms", times[4]);
    // The promise is 50 ms; other tests share this machine.
    assert!(times[4] < 1_000, "{times:?}");
}

#[test]
fn a_grant_that_was_put_in_again_ends_when_it_would_have_ended() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "8s"]);
    let mut session = guarded.connect(world.client());
    session.works();
    let event = guarded.damage("flush ruleset");
    assert!(!event.contains("doors"), "{event}");
    guarded.is_open_to(world.client());
    guarded.door.wait_until_over();
    guarded.is_shut_to(world.client());
    session.works();
    // And once more, when no door is open for it.
    guarded.damage("flush ruleset");
    guarded.is_shut_to(world.client());
    session.works();
}

/// Somebody connects while the table is away: over which transport, and with conntrack at work or not.
fn intruder_stays_out(udp: bool, conntrack: bool) {
    let world = World::new();
    let udp_service = "[[service]]\nname = \"mqtts\"\nports = [\"udp/5683\"]\n";
    let tcp = Settings::default();
    let services = if udp { udp_service } else { tcp.services };
    let guarded = Guarded::with(&world, &Settings { services, ..tcp });
    if conntrack {
        guarded.keep_conntrack();
    }
    guarded.daemon.pause();
    guarded.nft("delete table inet knockd");
    let mut intruder = match udp {
        true => Talk::udp(world.attacker(), broker4(&world), 5683, None),
        false => guarded.connect(world.attacker()),
    };
    intruder.works();
    // What the server itself sends makes conntrack know the connection anew.
    intruder.be_chattered_at();
    guarded.daemon.resume();
    guarded.mended(0);
    if conntrack {
        guarded.daemon.tells(&["that came by no door", "connections=1"]);
    }
    intruder.is_dead();
    intruder.is_dead();
    if !udp {
        guarded.is_shut_to(world.attacker());
    }
}

#[test]
fn a_connection_that_came_in_while_the_table_was_away_is_ended_and_stays_out() {
    intruder_stays_out(false, true);
    intruder_stays_out(false, false);
}

#[test]
fn a_udp_flow_that_began_while_the_table_was_away_is_ended_and_stays_out() {
    intruder_stays_out(true, true);
    intruder_stays_out(true, false);
}

#[test]
fn a_connection_that_came_in_by_a_rule_put_in_front_is_ended_and_stays_out() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.daemon.pause();
    guarded.nft("insert rule inet knockd gate accept");
    let mut intruder = guarded.connect(world.attacker());
    intruder.works();
    guarded.daemon.resume();
    guarded.mended(0);
    intruder.is_dead();
    guarded.is_shut_to(world.attacker());
}

#[test]
fn a_connection_that_came_in_by_a_foreign_door_is_ended_with_it_and_stays_out() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.daemon.pause();
    guarded.nft("add element inet knockd door4 { 10.77.0.3 . tcp . 8883 timeout 600s }");
    let mut intruder = guarded.connect(world.attacker());
    intruder.works();
    guarded.daemon.resume();
    guarded.mended(0);
    guarded.daemon.tells(&["through doors that nobody held", "connections=1"]);
    intruder.is_dead();
    guarded.is_shut_to(world.attacker());
}

#[test]
fn a_granted_clients_connection_from_while_the_table_was_away_lives_on_beyond_its_grant() {
    for conntrack in [true, false] {
        let world = World::new();
        let guarded = Guarded::new(&world);
        if conntrack {
            guarded.keep_conntrack();
        }
        guarded.device.opens(&["--open-for", "15s"]);
        guarded.daemon.pause();
        guarded.nft("delete table inet knockd");
        let mut session = guarded.connect(world.client());
        session.works();
        guarded.daemon.resume();
        guarded.mended(0);
        if conntrack {
            guarded.daemon.tells(&["that came by no door", "connections=1"]);
        }
        session.works();
        guarded.door.wait_until_over();
        guarded.is_shut_to(world.client());
        session.works();
    }
}

#[test]
fn a_table_that_an_admin_put_in_again_first_is_told_and_who_came_in_meanwhile_is_ended() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "600s"]);
    guarded.daemon.pause();
    guarded.nft("flush ruleset");
    let mut intruder = guarded.connect(world.attacker());
    intruder.works();
    guarded.door.run(&["firewall", "install"]).success();
    guarded.is_shut_to(world.client());
    guarded.daemon.resume();
    let event = guarded.mended(0);
    assert!(event.contains("somebody else has put in again"), "{event}");
    assert!(event.contains("1 doors of live grants"), "{event}");
    guarded.is_open_to(world.client());
    intruder.is_dead();
}

#[test]
fn doors_that_a_restored_dump_brings_back_are_shut_and_sessions_live_on() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "600s"]);
    let mut session = guarded.connect(world.client());
    session.works();
    let dump = world.broker().run(&["nft", "list", "ruleset"]).success().stdout;
    guarded.device.knock(world.client(), &["-4", "--close"]).success();
    guarded.daemon.tells(&["decision=\"closed\""]);
    let event = guarded.damage(&format!("flush ruleset\n{dump}"));
    assert!(event.contains("1 doors were open that nobody holds"), "{event}");
    guarded.is_shut_to(world.client());
    session.works();
}

#[test]
fn tags_go_in_again_and_a_knock_passes_by_its_tag() {
    let world = World::new();
    let tables = "[prefilter]\nmode = \"on\"\njunk-budget = 1\n";
    let guarded = Guarded::with(&world, &Settings { tables, ..Settings::default() });
    for script in ["flush ruleset", "flush set inet knockd tags"] {
        guarded.damage(script);
        until("the tags are in again", || guarded.has_tags());
        guarded.device.opens(&["--open-for", "600s"]);
    }
    let list = ["nft", "list", "chain", "inet", "knockd", "knock"];
    let listed = world.broker().run(&list).success().stdout;
    let by_tag = listed.lines().find(|line| line.contains("a client's tag")).expect("the rule");
    assert!(by_tag.contains("packets 2"), "{by_tag}");
}

#[test]
fn a_knock_that_arrives_while_the_table_is_away_opens_all_the_same() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    for knocks in 1..=5 {
        guarded.daemon.pause();
        guarded.nft("flush ruleset");
        guarded.device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
        guarded.daemon.resume();
        guarded.mended(knocks - 1);
        until("the knock is told as granted", || guarded.daemon.granted() == knocks);
        guarded.is_open_to(world.client());
        guarded.is_shut_to(world.attacker());
    }
    assert!(!guarded.daemon.log().contains("firewall-failed"));
    assert_eq!(guarded.repairs().len(), 5);
}

#[test]
fn under_a_load_of_knocks_none_is_lost_and_the_door_is_put_right() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    const KNOCKS: usize = 60;
    let (knock, profile) = (binaries::path("knock"), guarded.device.profile().display());
    let script = format!(
        "for i in $(seq {KNOCKS}); do '{knock}' --config '{profile}' -4 --open-for 600s; done"
    );
    let mut knocks = world.client().spawn(&["sh", "-c", &script], &[]);
    for _ in 0..5 {
        guarded.damage("flush ruleset");
    }
    assert!(knocks.wait().success());
    until("all are told as granted", || guarded.daemon.granted() == KNOCKS);
    assert!(!guarded.daemon.log().contains("firewall-failed"));
    guarded.is_open_to(world.client());
    guarded.is_shut_to(world.attacker());
}

#[test]
fn a_tool_that_keeps_deleting_the_table_is_told_of_and_not_spun_on() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    let start = Instant::now();
    let tool = "for i in $(seq 150); do nft delete table inet knockd 2>/dev/null && echo gone; \
                sleep 0.02; done";
    let output = world.broker().run(&["sh", "-c", tool]);
    let took = start.elapsed();
    let deleted = output.stdout.lines().count();
    guarded.daemon.tells(&["ERROR", "keeps being changed by nft", "nft monitor"]);
    until("the table is whole at last", || guarded.door.run(&["firewall", "status"]).is_success());
    guarded.is_shut_to(world.attacker());
    let repairs = guarded.repairs().len();
    println!("{repairs} repairs of {deleted} deletions in {took:?}");
    // Twenty looks at once and one a second, some more after the tool's end.
    let most = 22 + usize::try_from(took.as_secs()).unwrap();
    assert!(repairs <= most, "{repairs} repairs in {took:?}");
    let complaints = guarded.daemon.log().matches("keeps being changed").count();
    assert!(complaints <= 1 + usize::try_from(took.as_secs() / 60).unwrap(), "{complaints}");
}

#[test]
fn what_the_daemon_does_itself_and_what_others_do_elsewhere_wakes_nobody() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    for _ in 0..5 {
        guarded.device.opens(&["--open-for", "600s"]);
        guarded.device.knock(world.client(), &["-4", "--close"]).success();
    }
    until("all are closed", || guarded.daemon.log().matches("decision=\"closed\"").count() == 5);
    guarded.nft("table inet other { chain input { type filter hook input priority 0; }; }");
    guarded.nft("delete table inet other");
    // The absence of something can only be seen by waiting.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(guarded.looks_in_vain(), 0);
    assert_eq!(guarded.repairs(), Vec::<String>::new());
    // It still sees what it ought to.
    guarded.damage("flush ruleset");
}

#[test]
fn notifications_that_are_lost_have_the_table_looked_at() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "600s"]);
    guarded.nft("table inet big { set many { type ipv4_addr; }; }");
    guarded.daemon.pause();
    // More notifications than a socket holds by default (net.core.rmem_default, 212,992 bytes): only root of the whole
    // host may have more.
    for network in 0..8 {
        let elements: Vec<String> =
            (0..4_000).map(|n| format!("10.{network}.{}.{}", n >> 8, n & 255)).collect();
        guarded.nft(&format!("add element inet big many {{ {} }}", elements.join(", ")));
    }
    guarded.nft("flush set inet knockd door4");
    guarded.daemon.resume();
    let event = guarded.mended(0);
    assert!(event.contains("1 doors of live grants"), "{event}");
    assert!(event.contains("by=somebody unknown"), "it was lost: {event}");
    guarded.is_open_to(world.client());
}

#[test]
fn a_chain_that_somebody_adds_to_the_table_goes_and_grants_live_on() {
    let world = World::new();
    let guarded = Guarded::new(&world);
    guarded.device.opens(&["--open-for", "600s"]);
    world.broker().nft("add chain inet knockd mine { type filter hook input priority 0; }");
    let event = guarded.mended(0);
    assert!(event.contains("chain mine isn't ours"), "{event}");
    assert!(!world.broker().ruleset().contains("chain mine"));
    guarded.is_open_to(world.client());
    assert!(guarded.remaining_s() > 500);
    until("the tags are back", || guarded.has_tags());
}
