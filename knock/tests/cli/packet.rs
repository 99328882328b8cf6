//! What arrives at the server.

use std::{
    collections::HashSet,
    net::{IpAddr, ToSocketAddrs as _},
};

use common::{Action, ClientAddress, OpenFor, ReplyWanted, Request, UnicastAddress};

use crate::support::{Device, Server, now, open};

fn literal(address: &str) -> ClientAddress {
    let address: IpAddr = address.parse().unwrap();
    ClientAddress::Literal(UnicastAddress::try_from(address).unwrap())
}

#[test]
fn every_field_of_the_datagram_is_what_the_flags_say() {
    let (device, server) = (Device::new(), Server::new());
    let before = now();
    let flags = ["--service", "mqtts", "--address", "192.0.2.1", "--open-for", "6h"];
    let run = device.knock_at(&server, &flags).must_succeed();
    let request = server.receive_request(&device.keys(""));
    assert!(before <= request.timestamp && request.timestamp <= now());
    assert_eq!(
        request,
        Request {
            timestamp: request.timestamp,
            address: literal("192.0.2.1"),
            open_for: OpenFor::from_secs(21_600),
            action: Action::Open,
            reply: ReplyWanted::No,
            service: "mqtts".parse().ok(),
        }
    );
    assert_eq!(run.stdout, format!("sent to {}: open mqtts for 192.0.2.1\n", server.name()));
    assert_eq!(run.stderr, "");
    server.must_have_received_nothing();
}

#[test]
fn what_nobody_says_is_left_to_the_server() {
    let (device, server) = (Device::new(), Server::new());
    device.knock_at(&server, &["--address", "observed"]).must_succeed();
    let request = server.receive_request(&device.keys(""));
    assert_eq!(request.address, ClientAddress::Observed);
    assert_eq!(request.open_for, OpenFor::Default);
    assert_eq!(request.service, None);
}

#[test]
fn close_asks_to_close_and_for_no_time_whatever_the_profile_says() {
    let (device, server) = (Device::new(), Server::new());
    let text = format!(
        "[a]\nserver = \"{}\"\nkey-file = \"key\"\nopen-for = \"1h\"\naddress = \"192.0.2.1\"\n",
        server.name()
    );
    device.write("knock.toml", &text, 0o644);
    device.knock(&["--config", "knock.toml", "--close"]).must_succeed();
    let request = server.receive_request(&device.keys(""));
    assert_eq!((request.action, request.open_for), (Action::Close, OpenFor::Default));
}

#[test]
fn the_profile_in_the_users_folder_is_found_and_flags_override_it() {
    let (device, server) = (Device::new(), Server::new());
    let profile = |name: &str, service: &str| {
        format!(
            "[{name}]\nserver = \"{}\"\nkey = \"{}\"\nservice = \"{service}\"\nopen-for = \"90s\"\n\
             address = \"192.0.2.1\"\nrealm = \"plant\"\n",
            server.name(),
            device.key()
        )
    };
    let text = profile("broker", "mqtts") + &profile("other", "ssh");
    device.write(".config/knock/knock.toml", &text, 0o600);

    device.knock(&["other"]).must_succeed();
    let request = server.receive_request(&device.keys("plant"));
    assert_eq!(request.service, "ssh".parse().ok());
    assert_eq!(request.open_for, OpenFor::from_secs(90));
    assert_eq!(request.address, literal("192.0.2.1"));

    let flags = ["broker", "--service=web", "--open-for=2m", "--address=192.0.2.9", "--realm=b"];
    device.knock(&flags).must_succeed();
    let request = server.receive_request(&device.keys("b"));
    assert_eq!(request.service, "web".parse().ok());
    assert_eq!(request.open_for, OpenFor::from_secs(120));
    assert_eq!(request.address, literal("192.0.2.9"));

    device.knock(&[]).must_fail(64, &["broker, other"]);
    server.must_have_received_nothing();
}

#[test]
fn the_config_home_of_xdg_comes_before_the_one_in_the_home_folder() {
    let (device, server) = (Device::new(), Server::new());
    let text = format!(
        "[x]\nserver = \"{}\"\nkey-file = \"key\"\naddress = \"observed\"\n",
        server.name()
    );
    device.write("xdg/knock/knock.toml", &text, 0o644);
    device.write("xdg/knock/key", &device.key(), 0o600);
    device.write(".config/knock/knock.toml", "[x]\nserver = 1\n", 0o644);
    let mut command = device.command(&["x"]);
    command.env("XDG_CONFIG_HOME", device.path("xdg"));
    device.finish(command.spawn().unwrap(), "").must_succeed();
    server.receive_request(&device.keys(""));
}

#[test]
fn flags_and_the_variable_for_the_key_file_are_enough_without_any_file() {
    let (device, server) = (Device::new(), Server::new());
    let name = server.name();
    let mut command = device.command(&["--server", &name, "--address=192.0.2.1"]);
    command.env("KNOCK_KEY_FILE", device.path("key"));
    device.finish(command.spawn().unwrap(), "").must_succeed();
    server.receive_request(&device.keys(""));
}

#[test]
fn a_key_of_the_profile_comes_before_the_variables_and_after_the_flags() {
    let (device, other, server) = (Device::new(), Device::new(), Server::new());
    let text = format!(
        "[x]\nserver = \"{}\"\nkey-file = \"key\"\naddress = \"observed\"\n",
        server.name()
    );
    device.write("knock.toml", &text, 0o644);
    let run = |arguments: &[&str]| {
        let mut command = device.command(&[&["--config", "knock.toml"], arguments].concat());
        command.env("KNOCK_KEY_FILE", other.path("key"));
        device.finish(command.spawn().unwrap(), "").must_succeed();
    };
    run(&[]);
    server.receive_request(&device.keys(""));
    let path = other.path("key");
    run(&["--key-file", path.to_str().unwrap()]);
    server.receive_request(&other.keys(""));
}

#[test]
fn repeated_packets_are_all_fresh() {
    let (device, server) = (Device::new(), Server::new());
    let run = device.knock_at(&server, &["--address=192.0.2.1", "--repeat=3"]).must_succeed();
    assert!(run.stdout.ends_with("for 192.0.2.1, 3 times\n"), "{run:?}");
    let packets: Vec<_> = (0..3).map(|_| server.receive()).collect();
    server.must_have_received_nothing();
    let nonces: HashSet<_> = packets.iter().map(|packet| &packet[8..20]).collect();
    assert_eq!(nonces.len(), 3);
    let keys = device.keys("");
    let stamps: Vec<_> = packets.iter().map(|packet| open(packet, &keys).timestamp).collect();
    assert!(stamps.is_sorted() && stamps[0] != stamps[2], "{stamps:?}");
}

#[test]
fn every_address_of_a_name_gets_a_packet_of_its_own() {
    let device = Device::new();
    let first = Server::on("127.0.0.1:0");
    let second = Server::on(&format!("[::1]:{}", first.port()));
    let resolved: HashSet<_> =
        ("localhost", first.port()).to_socket_addrs().unwrap().map(|to| to.to_string()).collect();
    let name = format!("localhost:{}", first.port());
    let arguments = [
        "--config=empty.toml",
        "--key-file=key",
        "--address=observed",
        "--json",
        "--server",
        &name,
    ];
    let json = device.knock(&arguments).must_succeed().json();
    let sent = json["sent"].as_array().unwrap();
    let to: HashSet<_> = sent.iter().map(|sent| sent["to"].as_str().unwrap().to_owned()).collect();
    assert_eq!((sent.len(), &to), (resolved.len(), &resolved));
    let mut packets = HashSet::new();
    for server in [&first, &second] {
        if resolved.contains(&server.name()) {
            let packet = server.receive();
            open(&packet, &device.keys(""));
            packets.insert(packet);
        }
        server.must_have_received_nothing();
    }
    assert_eq!(packets.len(), resolved.len());
}

#[test]
fn an_ipv6_server_is_knocked_at_and_the_flag_4_leaves_it_out() {
    let (device, server) = (Device::new(), Server::on("[::1]:0"));
    device.knock_at(&server, &["--address", "2001:db8::1"]).must_succeed();
    assert_eq!(server.receive_request(&device.keys("")).address, literal("2001:db8::1"));
    device.knock_at(&server, &["-6", "--address", "observed"]).must_succeed();
    server.receive_request(&device.keys(""));
    device.knock_at(&server, &["-4", "--address", "observed"]).must_fail(68, &["no IPv4 address"]);
    server.must_have_received_nothing();
}

#[test]
fn a_dry_run_shows_the_datagram_and_what_is_in_it_and_sends_nothing() {
    let (device, server) = (Device::new(), Server::new());
    let flags = ["--service=mqtts", "--address=192.0.2.1", "--open-for=1m", "--dry-run"];
    let run = device.knock_at(&server, &flags).must_succeed();
    server.must_have_received_nothing();
    let shown = |name: &str| {
        let line = run.stdout.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {run:?}")).trim().to_owned()
    };
    let hex = shown("datagram");
    let datagram = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    let request = open(&datagram, &device.keys(""));
    assert_eq!(request.timestamp.as_millis().to_string(), shown("timestamp"));
    assert_eq!((shown("address"), request.address), ("192.0.2.1".into(), literal("192.0.2.1")));
    assert_eq!((shown("open-for"), request.open_for.as_secs()), ("60s".into(), 60));
    assert_eq!((shown("action"), request.action), ("open".into(), Action::Open));
    assert_eq!((shown("service"), request.service), ("mqtts".into(), "mqtts".parse().ok()));
    assert!(shown("tag").starts_with(&hex[..16]));
}

#[test]
fn a_dry_run_needs_no_network_and_no_resolver() {
    let device = Device::new();
    let arguments = ["--config=empty.toml", "--key-file=key", "--dry-run", "--json"];
    // RFC 6761, section 6.4: no name under "invalid" ever exists. Nobody sends to a broadcast unasked.
    for (server, shown) in
        [("broker.invalid", "broker.invalid:62201"), ("255.255.255.255", "255.255.255.255:62201")]
    {
        for (address, expected) in [("auto", "observed"), ("10.9.9.9", "10.9.9.9")] {
            let line = [&arguments[..], &["--server", server, "--address", address]].concat();
            let json = device.knock(&line).must_succeed().json();
            let unsent = &json["unsent"][0];
            assert_eq!(
                (&unsent["to"], &unsent["address"]),
                (&shown.into(), &expected.into()),
                "{json}"
            );
            let warned = json["warnings"].to_string();
            assert_eq!(warned.contains("isn't known"), address == "auto", "{warned}");
        }
    }
}
