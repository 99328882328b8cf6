//! The wire between the machines, and the host of the devices: a network namespace from which everything is probed
//! and knocked at.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use e2e::Output;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use crate::inside::run;

/// The bridge that joins all.
pub(crate) const WIRE: &str = "wire";
/// The last number of the broker's and the devices' own addresses.
pub(crate) const BROKER: u8 = 1;
pub(crate) const DEVICES: u8 = 2;
/// And of a machine that is a device.
pub(crate) const SENSOR: u8 = 3;
pub(crate) const PANEL: u8 = 4;
/// And of machines that are brokers in other circumstances, one after the other.
pub(crate) const OTHER_BROKER: u8 = 5;
/// What is behind the door, where knocks go, and a port that no door is in front of.
pub(crate) const MQTTS: u16 = 8883;
pub(crate) const KNOCK_PORT: u16 = 62201;
pub(crate) const UNGUARDED: u16 = 4321;

/// An address on the wire.
pub(crate) const fn v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// The same over IPv6.
pub(crate) const fn v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host as u16)
}

/// One of the 65,536 addresses that the devices have as well.
pub(crate) fn crowd(number: usize) -> Ipv4Addr {
    let number = u16::try_from(number).expect("fewer devices than addresses");
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 80, high, low)
}

/// The names of the machines, for a file of names.
pub(crate) fn hosts() -> String {
    let names = [("broker", BROKER), ("sensor", SENSOR), ("panel", PANEL), ("other", OTHER_BROKER)];
    let lines = names.map(|(name, host)| format!("{} {name}\n{} {name}\n", v4(host), v6(host)));
    format!("127.0.0.1 localhost\n::1 localhost\n{}", lines.concat())
}

/// Makes the wire, and the devices' host at it.
pub(crate) fn make() {
    run(&["ip", "link", "add", WIRE, "type", "bridge", "mcast_snooping", "0"]);
    run(&["ip", "link", "set", WIRE, "up"]);
    run(&["ip", "netns", "add", "device"]);
    run(&[
        "ip", "link", "add", "device", "type", "veth", "peer", "name", "eth0", "netns", "device",
    ]);
    run(&["ip", "link", "set", "device", "master", WIRE, "up"]);
    within(|| {
        run(&["ip", "link", "set", "lo", "up"]);
        run(&["ip", "link", "set", "eth0", "up"]);
        run(&["ip", "addr", "add", &format!("{}/24", v4(DEVICES)), "dev", "eth0"]);
        run(&["ip", "addr", "add", &format!("{}/64", v6(DEVICES)), "dev", "eth0", "nodad"]);
        run(&["ip", "route", "add", "local", "10.80.0.0/16", "dev", "lo"]);
    });
}

/// Makes the calling thread part of the devices' host.
pub(crate) fn join() {
    let namespace = File::open(Path::new("/run/netns/device")).expect("the devices' namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
}

/// Does something on the devices' host.
pub(crate) fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            join();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command on the devices' host, at most a minute.
pub(crate) fn device(argv: &[&str]) -> Output {
    let shown = format!("device$ {}", argv.join(" "));
    let mut command = Command::new("timeout");
    command.arg("60").args(argv);
    within(|| Output::of(command, "", &shown))
}

/// Starts a program on the devices' host, its output in a file.
pub(crate) fn start(argv: &[&str], log: &Path) -> Child {
    let log = File::create(log).expect("create a log file");
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    within(|| command.spawn()).expect("start a program on the devices' host")
}

/// What a TCP connection from the devices' host finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Open,
    Refused,
    Silence,
}

/// Connects once from the devices' host, from this address of it if one is given.
pub(crate) fn connect_from(from: Option<Ipv4Addr>, to: IpAddr, port: u16) -> Found {
    let to = SocketAddr::new(to, port);
    within(|| {
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM, None).expect("make a socket");
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind an address");
        }
        match socket.connect_timeout(&to.into(), Duration::from_millis(700)) {
            Ok(()) => Found::Open,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Found::Refused,
            Err(_) => Found::Silence,
        }
    })
}

/// Connects once from the devices' host.
pub(crate) fn connect(to: IpAddr, port: u16) -> Found {
    connect_from(None, to, port)
}

/// The hardware's address that an address on the wire had last, as the devices' host knows it.
pub(crate) fn card(address: IpAddr) -> Option<String> {
    let said = device(&["ip", "neigh", "show", &address.to_string()]).stdout;
    let (_, rest) = said.split_once("lladdr ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Both addresses of the broker's machine.
pub(crate) fn broker() -> [IpAddr; 2] {
    [v4(BROKER).into(), v6(BROKER).into()]
}

/// Both addresses of the other broker's machine.
pub(crate) fn other_broker() -> [IpAddr; 2] {
    [v4(OTHER_BROKER).into(), v6(OTHER_BROKER).into()]
}

/// Panics unless the broker's port is found so, over IPv4 and IPv6.
#[track_caller]
pub(crate) fn broker_is(found: Found) {
    for address in broker() {
        assert_eq!(connect(address, MQTTS), found, "tcp/{MQTTS} of {address}");
    }
}
