//! Replies: what they tell, to whom they go, and to whom they never do.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::SocketAddr;

use e2e::door::{Device, KNOCK_PORT, MQTTS, broker4};
use e2e::table::counted;
use e2e::{Capture, Door, Echo, Foreign, Settings, State, World, until};

const ON: &str = "[reply]\nenabled = true\n";

fn settings() -> Settings<'static> {
    Settings { tables: ON, ..Settings::default() }
}

/// The one reply that a run of `knock --json` tells of.
#[track_caller]
fn reply(output: &e2e::process::Output) -> serde_json::Value {
    let replies = output.json()["replies"].as_array().expect("a list").clone();
    assert_eq!(replies.len(), 1, "{output}");
    replies[0].clone()
}

#[test]
fn a_reply_tells_until_when_the_door_is_open_for_which_address_and_what_time_it_is() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &settings());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let client = world.client();
    for (family, own) in [("-4", client.v4()), ("-6", client.v6())] {
        let told = device.knock(client, &[family, "--reply=20s", "--open-for=50s", "--json"]);
        let reply = reply(&told.success());
        assert_eq!((&reply["open"], &reply["address"]), (&true.into(), &own.to_string().into()));
        // The door was open before the reply went out.
        assert_eq!(client.tcp(broker4(&world), MQTTS), State::Open);
        let left = reply["open-for-ms"].as_u64().expect("a time");
        assert!((1..=50_000).contains(&left), "{reply}");
        let until = reply["open-until"].as_u64().expect("a time");
        assert_eq!(until - reply["clock"].as_u64().expect("a time"), left);
    }
    let closed = device.knock(client, &["-4", "--close", "--reply=20s", "--json"]).success();
    assert_eq!(reply(&closed)["open"], false);
}

#[test]
fn a_device_behind_nat_learns_its_public_address() {
    let world = World::with(&["broker", "home"]);
    let (lamp, _) = world.behind_nat();
    let door = Door::new(&world, &settings());
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let _daemon = door.ready();
    let told = device.knock(lamp, &["-4", "--reply=20s", "--json"]).success();
    assert_eq!(reply(&told)["address"], world.host("home").v4().to_string());
}

#[test]
fn the_reply_comes_from_the_address_that_the_knock_was_sent_to_over_ipv4_and_ipv6() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let device = door.enrol("press-17");
    world.ip(
        Some("broker"),
        "addr add 10.77.0.101/24 dev eth0\naddr add fd77::101/64 dev eth0 nodad\n\
         addr add fd77::102/64 dev eth0 nodad",
    );
    let _daemon = door.ready();
    // `knock` hears of no other address than the one that it has sent to.
    for server in ["10.77.0.1", "10.77.0.101", "[fd77::1]", "[fd77::101]", "[fd77::102]"] {
        let told = device.knock(world.client(), &["--server", server, "--reply=20s", "--json"]);
        assert_eq!(reply(&told.success())["from"], format!("{server}:{KNOCK_PORT}"));
    }
}

#[test]
fn where_the_daemon_listens_at_one_address_of_ipv4_replies_come_from_there() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let device = door.enrol("press-17");
    for listen in ["[\"0.0.0.0:62201\"]", "[\"10.77.0.1:62201\", \"[fd77::1]:62201\"]"] {
        door.set("listen", listen);
        let daemon = door.ready();
        device.knock(world.client(), &["-4", "--reply=20s"]).success();
        daemon.terminate();
    }
}

#[test]
fn one_packet_has_one_reply_shorter_than_itself_and_a_foreign_client_can_read_it() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let capture = Capture::answers_to(world.client());
    let request = Foreign(world.client()).datagram(&device, &["--flags", "1"]);
    let send = || world.client().send_udp(broker4(&world), KNOCK_PORT, &request);
    send();
    until("it is granted", || daemon.granted() == 1);
    // Copies, from its own address and another.
    for _ in 0..3 {
        send();
    }
    world.attacker().send_udp(broker4(&world), KNOCK_PORT, &request);
    daemon.refuses("replayed", 3);
    daemon.refuses("address-mismatch", 1);
    let replies = capture.replies(world.client());
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert!(replies[0].len() < request.len());
    let told = Foreign(world.client()).reads(&device, &request, &replies[0]);
    assert_eq!((&told["result"], &told["seen"]), (&"open".into(), &"10.77.0.2".into()));
    assert_eq!(counted(&world, "replies", "replies to knocks"), 1);
    let decisions = door.run(&["status", "--json"]).success().json()["decisions"].clone();
    assert_eq!((&decisions["replies-sent"], &decisions["replies-dropped"]), (&1.into(), &0.into()));
}

#[test]
fn a_reply_to_an_earlier_packet_is_none_to_a_later_one() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let capture = Capture::answers_to(world.client());
    Foreign(world.client()).knock(&device, &["--flags", "1"]);
    until("it is granted", || daemon.granted() == 1);
    let earlier = capture.replies(world.client()).remove(0);
    daemon.terminate();

    // Whoever has the daemon's place now sends what it once replied.
    let impostor = "import socket, sys\n\
                    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                    s.bind(('10.77.0.1', 62201))\n\
                    print('serving', flush=True)\n\
                    s.sendto(bytes.fromhex(sys.argv[1]), s.recvfrom(2000)[1])";
    let mut impostor = world.broker().spawn(&["python3", "-c", impostor, &earlier], &[]);
    impostor.wait_for("serving");
    let heard = Capture::answers_to(world.client());
    device.knock(world.client(), &["-4", "--reply=500ms"]).exits(75).says("no reply came");
    assert_eq!(heard.replies(world.client()), [earlier]);
}

#[test]
fn strangers_and_whoever_is_refused_or_does_not_ask_hear_nothing_where_replies_are_on() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let (device, blind) = (
        door.enrol("press-17"),
        door.enrol_with("press-18", &["--service", "mqtts", "--from", "10.9.0.0/16"]),
    );
    let daemon = door.ready();
    let to_client = Capture::answers_to(world.client());
    let to_attacker = Capture::answers_to(world.attacker());
    let knock = |device: &Device<'_>, args: &[&str]| Foreign(world.client()).knock(device, args);
    knock(&device, &[]);
    for refused in [
        &["--service", "other"][..],
        &["--address", "10.77.0.9"],
        &["--clock-offset", "-3600"],
        &["--spoil-seal"],
        &["--flip", "900"],
        &["--action", "7"],
    ] {
        knock(&device, &[&["--flags", "1"], refused].concat());
    }
    knock(&blind, &["--flags", "1"]);
    Foreign(world.client())
        .knock(&device, &["--flags", "1", "--key", "c3RyYW5nZXJzIGtleSwgMzIgYnl0ZXMgb2YgaXQuLi4="]);
    for size in ["0", "100", "116", "1400"] {
        let to = SocketAddr::new(broker4(&world), KNOCK_PORT).to_string();
        world.attacker().packet(&["udp", "--to", &to, "--size", size, "--count", "3"]);
    }
    daemon.refuses("network-not-allowed", 1);
    until("the one that didn't ask was granted", || daemon.granted() == 1);
    to_client.saw_silence(world.client());
    to_attacker.saw_silence(world.attacker());
}

#[test]
fn replies_are_turned_on_and_off_by_a_reload() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let asks = || device.knock(world.client(), &["-4", "--reply=700ms"]);
    let output = asks();
    output.exits(75).says("reply.enabled");
    door.configure(&settings());
    door.run(&["reload"]).success();
    device.knock(world.client(), &["-4", "--reply=20s"]).success();
    door.configure(&Settings::default());
    door.run(&["reload"]).success();
    asks().exits(75).says("no reply came");
}
