//! `make demo`: the main job as a story, with real parts, in network namespaces of its own.
//! Ends with a non-zero status if any step isn't as told.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "what the story needs and can't have ends it, with a message"
)]

use std::fs;
use std::process::ExitCode;

use e2e::door::{KNOCK_PORT, MQTTS, write_private};
use e2e::story::Story;
use e2e::{Capture, Door, Host, Mosquitto, Settings, State, World, until};

/// How long the client asks the door to be open.
const OPEN_FOR: &str = "15s";
/// The allowed clock skew, in seconds. A daemon without a memory accepts nothing until it is over.
const SKEW: u64 = 8;

fn main() -> ExitCode {
    let mut story =
        Story::begin("knock: one sealed packet opens the broker's port, and time closes it");
    story.say("Three hosts, network namespaces of this story's own: broker, client, attacker.");
    let world = World::new();
    let told = tell(&mut story, &world);
    told.expect("the story's files");
    if story.end("All as told.") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(story: &mut Story, world: &World) -> std::io::Result<()> {
    let (broker, client, attacker) = (world.broker(), world.client(), world.attacker());

    story.step("A real broker: mosquitto with TLS and a password, on port 8883");
    let mosquitto = Mosquitto::start(broker);
    let login = mosquitto.login();
    sees(story, attacker, State::Open, "without a door, everyone who scans finds it");

    story.step("The door: knockd is configured, a device is enrolled, the daemon starts");
    let settings = Settings { skew: SKEW, ..Settings::default() };
    let door = Door::new(world, &settings);
    let knockd =
        |args: &[&'static str]| [&["knockd", "--config", "knockd/knockd.toml"], args].concat();
    let device = ["press-17", "--service", "mqtts", "--server", "broker", "--out", "knock.toml"];
    let added = story.run_quietly(broker, &knockd(&[&["client", "add"], &device[..]].concat()));
    story.verdict(added.is_success(), "one command makes the key and the device's profile");
    install_profile(world, &fs::read_to_string(world.dir().join("knock.toml"))?)?;
    story.say("(knock.toml is taken to the client as ~/.config/knock/knock.toml)");
    story.run(broker, &knockd(&["check"]), &[]);
    let mut daemon = story.start(broker, &knockd(&["run"]));
    daemon.wait_for("listening");
    let listening_since = std::time::Instant::now();
    story.show_output(&daemon.stderr());
    sees(story, client, State::Filtered, "nobody sees the broker any more");
    sees(story, attacker, State::Filtered, "nor does the attacker");

    story.step("The client knocks, and its port opens; the attacker listens on the wire");
    until("the daemon's first seconds are over: it has no memory of packets before", || {
        listening_since.elapsed().as_millis() > u128::from(SKEW) * 1000 + 10
    });
    let capture = Capture::on_the_wire(world, KNOCK_PORT);
    let home = world.dir().join("client").display().to_string();
    let knock = ["knock", "broker", "--wait", "--open-for", OPEN_FOR];
    let knocked = story.run(client, &knock, &[("HOME", &home), ("XDG_CONFIG_HOME", "")]);
    story.verdict(knocked.is_success(), "open");
    let packet = capture.first_payload();
    story.say(&format!("The attacker captured it: {} bytes, all look random:", packet.len() / 2));
    story.show_output(&packet);

    story.step("The attacker sends the captured packet again: as it is, and in the client's name");
    for from in [&[][..], &["--from", "10.77.0.2:5555"]] {
        let argv = [&["packet", "udp", "--to", "10.77.0.1:62201"], from, &["--hex", &packet]];
        story.run(attacker, &argv.concat(), &[]);
    }
    let refusals = || {
        let log = daemon.stderr();
        let lines = log.lines().filter(|line| line.contains("decision=\"refused\""));
        let without_time = |line: &str| line.split_once("INFO ").map(|(_, rest)| rest.to_owned());
        lines.filter_map(without_time).collect::<Vec<_>>()
    };
    until("knockd has refused both", || {
        let status = door.run(&["status", "--json"]).success().json();
        let refused =
            |reason| status.pointer(&format!("/decisions/refused/{reason}")) == Some(&1.into());
        refused("address-mismatch") && refused("replayed")
    });
    story.say(
        "What knockd's journal says, in one line for all copies (`knockd status` counts each):",
    );
    story.show_output(&refusals().join("\n"));
    sees(story, attacker, State::Filtered, "it opened nothing");
    sees(story, client, State::Open, "and the client is still in");
    story.run(broker, &knockd(&["grants"]), &[]);

    story
        .step("A subscriber and a publisher exchange messages over TLS, with quality of service 1");
    let subscribe =
        ["stdbuf", "-oL", "mosquitto_sub", "-d", "-q", "1", "-t", "press/#", "-F", "%t: %p"];
    let mut subscriber = story.start(client, &[&subscribe[..], &login].concat());
    subscriber.wait_for("received SUBACK");
    for (topic, message, retain) in
        [("press/17", "hello", &[][..]), ("press/state", "running", &["--retain"])]
    {
        let publish = ["mosquitto_pub", "-q", "1", "-t", topic, "-m", message];
        let published = story.run(client, &[&publish[..], retain, &login].concat(), &[]);
        subscriber.wait_for(&format!("{topic}: {message}"));
        story.verdict(published.is_success(), &format!("\"{message}\" arrived, {topic}"));
    }
    let retained =
        ["mosquitto_sub", "-q", "1", "-t", "press/state", "-C", "1", "-W", "5", "--retained-only"];
    let late = story.run(client, &[&retained[..], &login].concat(), &[]);
    story.verdict(late.stdout.trim() == "running", "who comes later has the retained message");

    story.step(&format!("Time passes: {OPEN_FOR} are over"));
    client.tcp_until(broker.v4(), MQTTS, State::Filtered);
    sees(story, client, State::Filtered, "the door is shut again, by itself");
    attacker.send_udp(broker.v4(), KNOCK_PORT, &packet);
    client.send_udp(broker.v4(), KNOCK_PORT, &packet);
    sees(story, client, State::Filtered, "the old packet opens nothing, not even for the client");
    sees(story, attacker, State::Filtered, "nor for the attacker");

    story.step("The session that stood goes on");
    let publish = ["mosquitto_pub", "-q", "1", "-t", "press/17", "-m", "still there?"];
    let published = story.run(broker, &[&publish[..], &login].concat(), &[]);
    subscriber.wait_for("press/17: still there?");
    story.say("What the client's subscriber has received in all:");
    let received = subscriber.stdout();
    let messages = received.lines().filter(|line| line.starts_with("press/"));
    story.show_output(&messages.collect::<Vec<_>>().join("\n"));
    story.verdict(published.is_success(), "it was never interrupted");
    Ok(())
}

/// Puts the profile where `knock` looks for it on the client.
fn install_profile(world: &World, profile: &str) -> std::io::Result<()> {
    let folder = world.dir().join("client/.config/knock");
    fs::create_dir_all(&folder)?;
    write_private(&folder.join("knock.toml"), profile);
    Ok(())
}

/// Shows what nmap on a host sees of the broker's port, and says whether that is as told.
fn sees(story: &mut Story, host: Host<'_>, state: State, text: &str) {
    let nmap = ["nmap", "-n", "-Pn", "--max-retries", "1", "-p", "8883", "10.77.0.1"];
    let output = story.run(host, &nmap, &[]);
    let word = match state {
        State::Open => "open",
        State::Closed => "closed",
        State::Filtered => "filtered",
        State::OpenOrFiltered => "open|filtered",
    };
    let line = output.stdout.lines().find(|line| line.starts_with("8883/tcp")).unwrap_or_default();
    let seen = line.split_whitespace().nth(1) == Some(word);
    story.verdict(seen, &format!("{word}: {text}"));
}
