//! `--wait`: probing the service's port.

use std::{io::ErrorKind, net::TcpListener};

use crate::support::{Device, Server};

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_that_accepts_ends_the_waiting_with_0_and_one_that_did_before_the_knock_is_no_proof() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    service.set_nonblocking(true).unwrap();
    let port = format!("tcp/{}", service.local_addr().unwrap().port());
    let run = device.knock_at(&server, &["--address=192.0.2.1", "--wait", "--port", &port]);
    let run = run.must_succeed();
    let second = run.stdout.lines().nth(1).unwrap();
    let unproven = format!("{port} accepts at 127.0.0.1, as it did before the knock");
    assert!(second.starts_with(&unproven), "{run:?}");
    server.receive_request(&device.keys(""));
    let seen = service.accept().unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::WouldBlock, "no program sees a probe");
}

#[test]
fn of_a_port_of_udp_nothing_can_be_known_and_the_knock_goes_out() {
    let (device, server) = (Device::new(), Server::new());
    let run = device.knock_at(&server, &["--address=observed", "--wait", "--port=udp/14567"]);
    let run = run.must_succeed();
    assert!(run.stderr.contains("udp/14567: UDP has no handshake"), "{run:?}");
    server.receive_request(&device.keys(""));
    let text = format!(
        "[a]\nserver = \"{}\"\nkey-file = \"key\"\naddress = \"observed\"\nport = \"udp/14567\"\n",
        server.name()
    );
    device.write("knock.toml", &text, 0o600);
    let json = device.knock(&["--config=knock.toml", "--wait", "--json"]).must_succeed().json();
    assert!(json["warnings"][0].as_str().unwrap().contains("--reply"), "{json}");
    assert_eq!(json["open"], serde_json::Value::Null);
    // As `knockd client add` makes one of such a service.
    device.write("knock.toml", &text.replace("port =", "# port ="), 0o600);
    let run = device.knock(&["--config=knock.toml", "--wait"]).must_succeed();
    assert!(run.stderr.contains("no port is named"), "{run:?}");
}

#[test]
fn the_port_is_the_profiles_unless_a_flag_names_another() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let text = format!(
        "[a]\nserver = \"{}\"\nkey-file = \"key\"\naddress = \"observed\"\nport = \"tcp/{port}\"\n",
        server.name()
    );
    device.write("knock.toml", &text, 0o600);
    device.knock(&["--config=knock.toml", "--wait"]).must_succeed();
    let closed = format!("--port=tcp/{}", free_port());
    device.knock(&["--config=knock.toml", "--wait=20ms", &closed]).must_fail(69, &[&closed[7..]]);
}

#[test]
fn a_port_that_opens_only_after_the_knock_is_found_by_a_later_attempt() {
    let (device, server) = (Device::new(), Server::new());
    let port = free_port();
    let flag = format!("--port=tcp/{port}");
    let child =
        device.command_at(&server, &["--address=observed", "--wait=60s", &flag]).spawn().unwrap();
    server.receive();
    let service = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let run = device.finish(child, "").must_succeed();
    let second = run.stdout.lines().nth(1).unwrap();
    assert!(second.starts_with(&format!("tcp/{port} open at 127.0.0.1 after ")), "{run:?}");
    drop(service);
}

#[test]
fn a_port_that_refuses_as_before_the_knock_ends_with_69_and_says_what_that_means() {
    let (device, server) = (Device::new(), Server::new());
    let flag = format!("--port=tcp/{}", free_port());
    let run = device.knock_at(&server, &["--address=observed", "--wait=30ms", &flag]);
    let run = run.must_fail(69, &["did not open within 30ms", "nothing listens there"]);
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    server.receive();
}

#[test]
fn a_port_that_does_not_answer_ends_with_69_and_says_that_the_door_is_shut() {
    let (device, server) = (Device::new(), Server::new());
    let service = full_listener();
    let flag =
        format!("--port=tcp/{}", service.0.local_addr().unwrap().as_socket().unwrap().port());
    let run = device.knock_at(&server, &["--address=observed", "--wait=30ms", &flag]);
    run.must_fail(69, &["did not open within 30ms", "the door is shut"]);
    server.receive();
}

/// A listener whose queue is full: further SYNs are dropped, as by a firewall.
fn full_listener() -> (socket2::Socket, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..8)
        .map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address);
            client
        })
        .collect();
    (listener, waiting)
}
