//! What is printed, and where.

use std::{fs::OpenOptions, net::TcpListener};

use crate::support::{Device, Server};

#[test]
fn quiet_prints_nothing_and_errors_all_the_same() {
    let (device, server) = (Device::new(), Server::new());
    let run = device.knock_at(&server, &["--address=observed", "--quiet"]).must_succeed();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let run = device.knock_at(&server, &["--quiet"]).must_fail(69, &["loopback"]);
    assert_eq!(run.stdout, "");
}

#[test]
fn json_is_one_object_with_all_that_happened() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("tcp/{}", service.local_addr().unwrap().port());
    let text = format!(
        "[broker]\nserver = \"{}\"\nkey-file = \"key\"\nservice = \"mqtts\"\naddress = \"192.0.2.1\"\n",
        server.name()
    );
    device.write("knock.toml", &text, 0o600);
    let flags = ["--config=knock.toml", "--json", "--open-for=1m", "--wait", "--port", &port];
    let run = device.knock(&flags).must_succeed();
    assert_eq!(run.stderr, "");
    let json = run.json();
    let request = server.receive_request(&device.keys(""));
    assert!(json["open"]["after-ms"].is_u64(), "{json}");
    assert_eq!(
        json,
        serde_json::json!({
            "profile": "broker",
            "server": server.name(),
            "service": "mqtts",
            "action": "open",
            "open-for": 60,
            "dry-run": false,
            "sent": [{
                "to": server.name(),
                "address": "192.0.2.1",
                "timestamp": request.timestamp.as_millis(),
                "packets": 1,
            }],
            "failed": [],
            "unsent": [],
            "open": {
                "to": "127.0.0.1",
                "port": port,
                "after-ms": json["open"]["after-ms"],
                "proven": false,
            },
            "replies": [],
            "legs": [],
            "counter": null,
            "warnings": [json["warnings"][0]],
            "error": null,
            "exit-code": 0,
        })
    );
}

#[test]
fn json_of_a_dry_run_holds_the_datagram() {
    let (device, server) = (Device::new(), Server::new());
    let flags = ["--address=observed", "--json", "--dry-run", "--repeat=2"];
    let json = device.knock_at(&server, &flags).must_succeed().json();
    server.must_have_received_nothing();
    assert_eq!((&json["dry-run"], &json["sent"]), (&true.into(), &serde_json::json!([])));
    let unsent = json["unsent"].as_array().unwrap();
    assert_eq!(unsent.len(), 2);
    for packet in unsent {
        let hex = packet["datagram"].as_str().unwrap();
        let datagram = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let request = crate::support::open(&datagram, &device.keys(""));
        assert_eq!(packet["timestamp"], request.timestamp.as_millis());
        assert_eq!(packet["address"], "observed");
        assert_eq!(packet["to"], server.name());
        assert_eq!(packet["tag"], hex[..16]);
    }
}

#[test]
fn json_is_one_object_also_on_every_failure_and_the_error_is_on_standard_error_too() {
    let (device, server) = (Device::new(), Server::new());
    device.write("open-key", &device.key(), 0o644);
    let own = |flags: &[&str]| [&["--config=empty.toml"], flags].concat().join(" ");
    let name = server.name();
    for (line, code) in [
        (own(&["--frob"]), 64),
        (own(&["--wait", "--server", &name, "--key-file=key"]), 64),
        (own(&["-6", "--server", &name, "--key-file=key"]), 68),
        (own(&["--server", &name, "--key-file=key"]), 69),
        (own(&["--server", &name, "--key-file=open-key"]), 77),
        (own(&["--server", &name]), 78),
    ] {
        let line: Vec<_> = line.split(' ').chain(["--json"]).collect();
        let run = device.knock(&line).must_fail(code, &[]);
        let json = run.json();
        assert_eq!(json["exit-code"], code);
        let error = json["error"].as_str().unwrap();
        assert!(!error.is_empty() && run.stderr.contains(error), "{run:?}");
        assert_eq!(json["sent"], serde_json::json!([]));
    }
    server.must_have_received_nothing();
}

#[test]
fn json_tells_what_was_sent_also_when_the_port_did_not_open() {
    let (device, server) = (Device::new(), Server::new());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let flag = format!("--port=tcp/{port}");
    let run = device.knock_at(&server, &["--address=observed", "--json", "--wait=20ms", &flag]);
    let json = run.must_fail(69, &[]).json();
    assert_eq!(json["sent"][0]["to"], server.name());
    assert_eq!((&json["open"], &json["exit-code"]), (&serde_json::Value::Null, &69.into()));
}

#[test]
fn output_that_cant_be_written_ends_with_74() {
    let (device, server) = (Device::new(), Server::new());
    for flags in [&["--address=observed"][..], &["--address=observed", "--json"], &["--help"]] {
        let mut command = device.command_at(&server, flags);
        command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let run = device.finish(command.spawn().unwrap(), "");
        assert_eq!(run.code(), 74, "{run:?}");
    }
}

#[test]
fn help_shows_every_option_every_exit_code_and_examples() {
    let run = Device::new().knock(&["--help"]).must_succeed();
    assert_eq!(run.stderr, "");
    for option in [
        "[PROFILE]",
        "COMMAND",
        "--wait[=<TIME>]",
        "--port",
        "--close",
        "--keep",
        "--check",
        "--open-for",
        "--service",
        "--address",
        "--repeat",
        "-4",
        "-6",
        "--server",
        "--key-file",
        "--realm",
        "--config",
        "--dry-run",
        "--json",
        "--quiet",
        "--help",
        "--version",
        "KNOCK_KEY_FILE",
        "/etc/knock/knock.toml",
        "Examples:",
    ] {
        assert!(run.stdout.contains(option), "{option} isn't in the help");
    }
    for code in ["0 ", "64", "68", "69", "71", "73", "74", "75", "77", "78", "126, 127"] {
        let listed = run.stdout.lines().any(|line| line.starts_with(&format!("  {code}")));
        assert!(listed, "{code} isn't in the help");
    }
}

#[test]
fn version_is_the_packages() {
    let run = Device::new().knock(&["--version"]).must_succeed();
    assert_eq!(run.stdout, format!("knock {}\n", env!("CARGO_PKG_VERSION")));
}
