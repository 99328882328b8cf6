//! `--wait`: probing the service's port.

use std::net::TcpListener;

use crate::support::{Device, Server};

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_that_accepts_ends_the_waiting_with_0() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("tcp/{}", service.local_addr().unwrap().port());
    let run = device.knock_at(&server, &["--address=192.0.2.1", "--wait", "--port", &port]);
    let run = run.must_succeed();
    let second = run.stdout.lines().nth(1).unwrap();
    assert!(second.starts_with(&format!("{port} open at 127.0.0.1 after ")), "{run:?}");
    server.receive_request(&device.keys(""));
    service.accept().unwrap();
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
    device.finish(child, "").must_succeed();
    service.accept().unwrap();
}

#[test]
fn a_port_that_refuses_ends_with_69_and_says_that_the_door_is_open() {
    let (device, server) = (Device::new(), Server::new());
    let flag = format!("--port=tcp/{}", free_port());
    let run = device.knock_at(&server, &["--address=observed", "--wait=30ms", &flag]);
    let run = run.must_fail(69, &["did not open within 30ms", "nothing listens behind it"]);
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
