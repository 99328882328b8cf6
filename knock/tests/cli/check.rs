//! `--check`: each leg of a knock's way, and which one fails.

use std::net::TcpListener;

use crate::support::{Device, Server};

/// No device has a loopback address.
const OBSERVED: &str = "--address=observed";

/// What each leg was found to be, in order.
fn legs(json: &serde_json::Value) -> Vec<(String, String)> {
    let legs = json["legs"].as_array().unwrap();
    let text = |leg: &serde_json::Value, key: &str| leg[key].as_str().unwrap().to_owned();
    legs.iter().map(|leg| (text(leg, "part"), text(leg, "standing"))).collect()
}

fn standing(json: &serde_json::Value, part: &str) -> Vec<String> {
    let legs = legs(json).into_iter().filter(|(of, _)| of == part);
    legs.map(|(_, standing)| standing).collect()
}

#[test]
fn every_leg_is_told_and_a_port_that_was_open_before_the_knock_is_doubtful() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port=tcp/{}", service.local_addr().unwrap().port());
    let run = device.knock_at(&server, &["--check", "--json", OBSERVED, &port]).must_succeed();
    let json = run.json();
    for part in ["profile", "name", "route", "address", "knock"] {
        assert_eq!(standing(&json, part), ["ok"], "{part}: {json}");
    }
    assert_eq!(standing(&json, "door"), ["doubtful"], "{json}");
    assert!(json["legs"].to_string().contains("before the knock"), "{json}");
    assert_eq!(standing(&json, "clock").len(), 1, "{json}");
    server.receive();
}

#[test]
fn a_door_that_stays_shut_is_the_leg_that_fails_and_what_it_can_mean_is_told() {
    let (device, server) = (Device::new(), Server::new());
    // Nobody listens at it: a port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["--check", OBSERVED, "--wait=300ms", &format!("--port=tcp/{port}")];
    let run = device.knock_at(&server, &arguments);
    run.must_fail(69, &["connection refused", "knockd doctor", "journalctl -t knockd"]);
}

#[test]
fn without_a_port_the_door_is_unknown_and_not_taken_for_open() {
    let (device, server) = (Device::new(), Server::new());
    let json = device.knock_at(&server, &["--check", OBSERVED, "--json"]).must_succeed().json();
    assert_eq!(standing(&json, "door"), ["unknown"]);
}

#[test]
fn a_dry_run_ends_before_anything_is_sent() {
    let (device, server) = (Device::new(), Server::new());
    let json = device
        .knock_at(&server, &["--check", OBSERVED, "--dry-run", "--json"])
        .must_succeed()
        .json();
    assert_eq!(standing(&json, "knock"), ["unknown"]);
    assert_eq!(standing(&json, "door"), Vec::<String>::new());
    server.must_have_received_nothing();
}

#[test]
fn a_key_that_others_can_read_a_name_without_an_address_and_a_lost_counter_are_the_leg_that_fails()
{
    let device = Device::new();
    let failed = |arguments: &[&str], code: i32, part: &str| {
        let run =
            device.knock(&[&["--check", "--json", "--config=empty.toml"], arguments].concat());
        assert_eq!(run.code(), code, "{part}");
        let json = run.json();
        let last = legs(&json).last().cloned().unwrap();
        assert_eq!(last, (part.to_owned(), "failed".to_owned()), "{json}");
    };
    device.write("open.key", &device.key(), 0o644);
    failed(&["--key-file=open.key", "--server=127.0.0.1"], 77, "profile");
    failed(&["--key-file=key", "--server=no-such-host.invalid"], 68, "name");
    failed(&["--key-file=key", "--server=127.0.0.1", "--counter-file=none"], 78, "clock");
}

#[test]
fn a_private_address_towards_a_public_server_is_doubtful() {
    let device = Device::new();
    let arguments = ["--check", "--dry-run", "--json", "--config=empty.toml", "--key-file=key"];
    let whom = ["--server=198.51.100.7", "--address=10.0.0.9"];
    let json = device.knock(&[&arguments[..], &whom].concat()).must_succeed().json();
    assert_eq!(standing(&json, "address"), ["doubtful"], "{json}");
}
