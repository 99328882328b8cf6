//! After a grant's end no new connection gets in, by any trick with the connection tracking.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{MQTTS, broker4};
use e2e::{Capture, Daemon, Door, Echo, Settings, State, Talk, World, binaries};

/// The port from which the client connected while it was allowed to.
const PORT: u16 = 40_000;

const KEEP: &str = "[grant]\nsessions = \"keep\"";
const CUT: &str = "[grant]\nsessions = \"cut\"";

/// A client that was in with a connection from [`PORT`], and isn't any more.
struct Expired<'w> {
    world: &'w World,
    door: Door<'w>,
    session: Option<Talk>,
    _echo: Echo,
    _daemon: Daemon,
}

impl<'w> Expired<'w> {
    fn new(world: &'w World, tables: &str) -> Self {
        let echo = Echo::start(world.broker(), &["tcp/8883"]);
        let door = Door::new(world, &Settings { tables, ..Settings::default() });
        let device = door.enrol("press-17");
        let daemon = door.ready();
        device.opens(&["--open-for", "4s"]);
        let mut session = Talk::tcp(world.client(), broker4(world), MQTTS, Some(PORT));
        session.works();
        Self { world, door, session: Some(session), _echo: echo, _daemon: daemon }
    }

    fn wait_for_the_end(&self) {
        self.door.wait_until_over();
        assert_eq!(self.world.client().tcp(broker4(self.world), MQTTS), State::Filtered);
    }

    fn cannot_connect(&self) {
        let client = self.world.client();
        for _ in 0..2 {
            assert_eq!(client.tcp_from(PORT, broker4(self.world), MQTTS), State::Filtered);
        }
        assert_eq!(client.tcp(broker4(self.world), MQTTS), State::Filtered);
    }
}

#[test]
fn the_port_of_a_connection_that_the_broker_reset_is_of_no_use_sessions_kept() {
    let world = World::new();
    let mut expired = Expired::new(&world, KEEP);
    expired.wait_for_the_end();
    // The reset comes after the end, when the kernel still knows the connection.
    expired.session.take().expect("a session").be_reset();
    expired.cannot_connect();
}

#[test]
fn the_port_of_a_connection_that_the_broker_reset_is_of_no_use_sessions_cut() {
    let world = World::new();
    let mut expired = Expired::new(&world, CUT);
    // A reset only reaches who is still in: before the end.
    expired.session.take().expect("a session").be_reset();
    expired.wait_for_the_end();
    expired.cannot_connect();
}

#[test]
fn the_port_of_a_connection_that_the_client_ended_is_of_no_use() {
    for tables in [KEEP, CUT] {
        let world = World::new();
        let mut expired = Expired::new(&world, tables);
        drop(expired.session.take());
        expired.wait_for_the_end();
        expired.cannot_connect();
    }
}

/// Segments of every kind from the port of the old connection and from others, in order: they are
/// met with silence, and after them the door is as shut as before.
///
/// One exception, where sessions are kept: the kernel goes on taking the old connection's own
/// segments for established for 10 seconds after the broker's RST, and the broker's host then
/// answers them with another RST. Nobody but who had that connection sees it.
fn stray_segments_get_nothing(tables: &str) {
    let world = World::new();
    let mut expired = Expired::new(&world, tables);
    expired.session.take().expect("a session").be_reset();
    expired.wait_for_the_end();
    for host in [world.client(), world.attacker()] {
        for port in [PORT, 40_001] {
            let from = std::net::SocketAddr::new(host.v4(), port).to_string();
            let to = std::net::SocketAddr::new(broker4(&world), MQTTS).to_string();
            let capture = Capture::answers_to(host);
            for flags in ["A", "F", "FA", "SA", "R", "RA", "PA", "SF", "SR", "SEC", "S"] {
                let segment = ["tcp", "--from", &from, "--to", &to, "--flags", flags];
                host.packet(&segment);
                host.packet(&[&segment[..], &["--fragments"]].concat());
                host.packet(&[&segment[..], &["--seq", "4000000000", "--ack", "0"]].concat());
            }
            let had_it = host.name() == "client" && port == PORT;
            if had_it && tables == KEEP {
                capture.saw_resets_at_most(host);
            } else {
                capture.saw_silence(host);
            }
        }
        assert_eq!(host.tcp_from(PORT, broker4(&world), MQTTS), State::Filtered);
        assert_eq!(host.tcp_from(40_001, broker4(&world), MQTTS), State::Filtered);
    }
}

#[test]
fn stray_segments_and_fragments_open_nothing_sessions_kept() {
    stray_segments_get_nothing(KEEP);
}

#[test]
fn stray_segments_and_fragments_open_nothing_sessions_cut() {
    stray_segments_get_nothing(CUT);
}

#[test]
fn a_kept_session_gives_nobody_else_a_way_in() {
    let world = World::new();
    let mut expired = Expired::new(&world, KEEP);
    expired.wait_for_the_end();
    assert_eq!(world.client().tcp_from(40_001, broker4(&world), MQTTS), State::Filtered);
    assert_eq!(world.attacker().tcp_from(PORT, broker4(&world), MQTTS), State::Filtered);
    expired.session.as_mut().expect("a session").works();
}

/// The broker's host connects from the guarded port itself, as one may whose service is down, and the
/// client sends a SYN meanwhile: RFC 9293, 3.5, would have both establish one connection.
#[test]
fn a_simultaneous_open_gets_nowhere() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    door.run(&["firewall", "install"]).success();
    let (client, broker) = (world.client(), world.broker());
    // The client's own kernel keeps out of it.
    client.nft(
        "table ip t { chain c { type filter hook input priority 0; tcp dport 40000 drop; }; }",
    );
    let capture = Capture::answers_to(client);
    let (from, to) = (format!("{}:{PORT}", client.v4()), format!("{}:{MQTTS}", broker.v4()));
    let packet = binaries::path("packet");
    let mut connecting =
        broker.spawn(&[&packet, "probe", &from, "--from-port", &MQTTS.to_string()], &[]);
    capture.saw_an_answer();
    client.packet(&["tcp", "--from", &from, "--to", &to, "--flags", "S"]);
    client.packet(&["tcp", "--from", &from, "--to", &to, "--flags", "SEC"]);
    connecting.wait_for("filtered");
    capture.saw_syns_at_most(client);
}

#[test]
fn a_udp_flow_lives_on_where_sessions_are_kept_and_no_other_begins() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["udp/5683"]);
    let services = "[[service]]\nname = \"coap\"\nports = [\"udp/5683\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let device = door.enrol_with("press-17", &["--service", "coap"]);
    let daemon = door.ready();
    device.knock(world.client(), &["-4", "--open-for", "3s"]).success();
    daemon.tells(&["decision=\"granted\""]);
    let mut flow = Talk::udp(world.client(), broker4(&world), 5683, Some(PORT));
    flow.works();
    door.wait_until_over();
    flow.works();
    Talk::udp(world.client(), broker4(&world), 5683, Some(PORT + 1)).is_dead();
}

/// The server's answers are lost until the grant is over, and the client then finishes the handshake that it began.
#[test]
fn a_handshake_that_is_finished_after_the_grants_end_makes_no_connection() {
    for tables in [KEEP, CUT] {
        let world = World::new();
        let _echo = Echo::start(world.broker(), &["tcp/8883"]);
        let door = Door::new(&world, &Settings { tables, ..Settings::default() });
        let device = door.enrol("press-17");
        let daemon = door.ready();
        device.knock(world.client(), &["-4", "--open-for", "3s"]).success();
        daemon.tells(&["client=press-17", "decision=\"granted\""]);
        world.client().nft(
            "table inet lossy { chain input { type filter hook input priority filter; \
             tcp sport 8883 drop; }; }",
        );
        let to = std::net::SocketAddr::new(broker4(&world), MQTTS).to_string();
        let tool = binaries::path("packet");
        let mut late = world.client().spawn(&[&tool, "talk", "tcp", &to, "--from-port", "0"], &[]);
        door.wait_until_over();
        world.client().nft("delete table inet lossy");
        // The server sends its half again, and to the client it looks like a connection.
        late.wait_for("connected");
        late.write_line("after the end");
        // The absence of something can only be seen by waiting.
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(!late.stdout().contains("echo"), "it is a connection: {tables}");
    }
}
