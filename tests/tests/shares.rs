//! One key holder against everybody else's room: what a client fills is its own.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Secret,
    Timestamp, seal,
};
use data_encoding::{BASE64, HEXLOWER};
use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Device, Door, Echo, Settings, State, World, binaries, until};

/// How many addresses it knocks from.
const ADDRESSES: u16 = 10_000;
/// Another device's address: that of the client's host.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// How many of them it may hold, where the configuration says nothing.
const SHARE: usize = 64;
/// The allowed skew in seconds: whatever is sent is fresh until the test's end.
const SKEW: u64 = 300;

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 80, high, low)
}

/// A device's knocks for an hour, from each of these addresses: a line for each, as `packet volley` reads them.
fn volley(device: &Device<'_>, addresses: impl Iterator<Item = Ipv4Addr>) -> String {
    let key = BASE64.decode(device.key().as_bytes()).expect("a key in base64");
    let secret = Secret::new(key.try_into().expect("32 bytes")).expect("a good key");
    let keys = ClientKeys::derive(&secret, &Realm::default());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let ahead = now + Duration::from_secs(SKEW - 1);
    let stamp = u64::try_from(ahead.as_millis()).expect("milliseconds");
    let timestamp = Timestamp::from_millis(stamp);
    let mut lines = String::new();
    for (number, address) in (0_u16..).zip(addresses) {
        let request = Request {
            timestamp,
            address: ClientAddress::Literal(IpAddr::V4(address).try_into().expect("one")),
            open_for: OpenFor::from_secs(3_600),
            action: Action::Open,
            reply: ReplyWanted::No,
            service: None,
        };
        let mut nonce = [0; 12];
        nonce[..2].copy_from_slice(&number.to_be_bytes());
        let day = Day::of(timestamp).expect("a day");
        let packet = HEXLOWER.encode(&seal(&keys, day, Nonce::from_random(nonce), &request));
        writeln!(lines, "{address} {packet}").expect("write a line");
    }
    lines
}

/// How many packets were granted, and how many refused because too many of their client's waited for the disk: nothing
/// was refused for anything else.
fn decisions(door: &Door<'_>) -> [u64; 2] {
    let status = door.run(&["status", "--json"]).success().json();
    let decisions = &status["decisions"];
    let mut refused = decisions["refused"].as_object().expect("figures by reason").clone();
    let waiting = refused.remove("too-many-waiting");
    assert!(refused.values().all(|count| *count == 0), "{refused:?}");
    let waiting = waiting.and_then(|count| count.as_u64()).unwrap_or_default();
    [decisions["granted"].as_u64().expect("a figure"), waiting]
}

#[test]
fn a_client_that_knocks_from_ten_thousand_addresses_shuts_nobody_out() {
    let world = World::new();
    world.crowd();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: SKEW, ..Settings::default() });
    let (thief, device) = (door.enrol("stolen"), door.enrol("press-17"));
    let daemon = door.start();
    daemon.wait_out(Duration::from_secs(1));
    let (packet, to) =
        (binaries::path("packet"), SocketAddr::new(world.broker().v4(), KNOCK_PORT).to_string());
    let counters = daemon.counters().file();
    let argv = [packet.as_str(), "volley", "--to", &to, "--counters", &counters];
    let all = volley(&thief, (0..ADDRESSES).map(address));
    world.attacker().run_with(&argv, &[], &all).success();
    // Each is dealt with. Of a client that sends faster than the disk answers, some are refused, for that and for
    // nothing else.
    until("all of them are dealt with", || {
        let [granted, refused] = decisions(&door);
        assert!(granted + refused <= u64::from(ADDRESSES), "{granted} and {refused}");
        granted + refused == u64::from(ADDRESSES)
    });
    let [granted, refused] = decisions(&door);
    assert!(granted > SHARE as u64, "{granted} of its knocks were granted");
    assert_eq!(daemon.has_told(&["client=stolen", "too-many-waiting"]), refused > 0);
    assert!(!daemon.has_told(&["journal-failed"]), "nothing is wrong with the disk");

    // Its latest address is in, in the kernel and in the file, beside the rest of its share; the others end there as
    // any grant does.
    let latest = volley(&thief, [address(ADDRESSES)].into_iter());
    world.attacker().run_with(&argv[..4], &[], &latest).success();
    let latest = address(ADDRESSES).to_string();
    until("its latest address is in", || {
        door.grants().iter().any(|grant| grant["address"] == latest.as_str())
    });
    let grants = door.grants();
    assert_eq!(grants.len(), SHARE);
    let doors = world.broker().run(&["nft", "list", "set", "inet", "knockd", "door4"]).success();
    assert_eq!(doors.stdout.matches("10.80.").count(), SHARE);
    assert!(doors.stdout.contains(&format!("{latest} . tcp . {MQTTS} ")), "{}", doors.stdout);
    let size = fs::metadata(door.state().join("grants")).expect("the file of grants").len();
    assert!(size <= 128 * (1 + SHARE as u64 + 256), "{size} bytes");

    // Nobody else has noticed.
    let knock = volley(&device, [CLIENT].into_iter());
    world.client().run_with(&argv[..4], &[], &knock).success();
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    assert!(!daemon.has_told(&["grants-full"]));
    daemon.tells(&["client=stolen", "source=10.80.0.0", "event=\"gave-way\""]);

    // Nor does a restart bring anything back.
    daemon.terminate();
    let _daemon = door.start();
    assert_eq!(door.grants().len(), SHARE + 1);
}
