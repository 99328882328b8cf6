//! A tool for the end-to-end tests: does for one daemon what systemd does. It holds its sockets and passes them on
//! (sd_listen_fds(3)), hears what it tells (sd_notify(3)), starts it again whenever it ends, and kills it when it
//! has not said in time that it is alive.
//!
//! Each line of standard input is an order: the name of a signal for the daemon, "hold" (don't start it again) or
//! "start". What happens is one line each on standard output.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tool fails by panicking, with a message that says what it was doing"
)]

use std::io::stdin;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, listen,
    setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

/// How often the daemon's end and the orders are looked for.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Parser)]
struct Args {
    /// UDP sockets to hold; `[::]` takes IPv4 as well.
    #[arg(long)]
    udp: Vec<SocketAddr>,
    /// A Unix stream socket to hold.
    #[arg(long)]
    control: Option<PathBuf>,
    /// Where to hear what the daemon tells.
    #[arg(long)]
    notify: PathBuf,
    /// Kill it when it has said nothing for so long.
    #[arg(long, value_name = "MS")]
    watchdog: Option<u64>,
    /// The daemon.
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() {
    let args = Args::parse();
    // Before anything else is open: those that are passed on begin at 3.
    let held = hold(&args);
    let notify = UnixDatagram::bind(&args.notify).expect("hear what the daemon tells");
    notify.set_read_timeout(Some(PAUSE)).expect("a time-out");
    Manager { orders: orders(), notify, watchdog: args.watchdog.map(Duration::from_millis) }
        .run(|| start(&args, held.len()));
}

/// The sockets, which a child inherits.
fn hold(args: &Args) -> Vec<OwnedFd> {
    let mut held: Vec<OwnedFd> = args.udp.iter().map(|address| udp(*address)).collect();
    held.extend(args.control.as_deref().map(control));
    for (number, socket) in (3..).zip(&held) {
        assert_eq!(socket.as_raw_fd(), number, "something else was open");
    }
    held
}

fn udp(address: SocketAddr) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, SockType::Datagram, SockFlag::empty(), None).expect("a UDP socket");
    if address.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &false).expect("IPv4 as well");
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(address)).expect("bind a UDP socket");
    made
}

fn control(path: &Path) -> OwnedFd {
    let made = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None);
    let made = made.expect("a Unix socket");
    bind(made.as_raw_fd(), &UnixAddr::new(path).expect("a socket's path")).expect("bind it");
    listen(&made, Backlog::new(16).expect("a backlog")).expect("listen");
    made
}

/// The process must know its own id before it begins: a shell tells it, and becomes it.
fn start(args: &Args, sockets: usize) -> Child {
    let mut command = Command::new("sh");
    command
        .args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"])
        .args(&args.command)
        .env("LISTEN_FDS", sockets.to_string())
        .env("NOTIFY_SOCKET", &args.notify);
    if let Some(limit) = args.watchdog {
        command.env("WATCHDOG_USEC", (limit * 1000).to_string());
    }
    println!("started");
    command.spawn().expect("start the daemon")
}

fn orders() -> Receiver<String> {
    let (sender, orders) = channel();
    std::thread::spawn(move || {
        stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    orders
}

struct Manager {
    orders: Receiver<String>,
    notify: UnixDatagram,
    watchdog: Option<Duration>,
}

impl Manager {
    fn run(self, start: impl Fn() -> Child) {
        let (mut daemon, mut held_back) = (Some(start()), false);
        // Since when it has said nothing; it is not waited for before it is ready.
        let mut silent_since = None;
        loop {
            for told in self.told() {
                println!("told {told}");
                if told == "READY=1" || told == "WATCHDOG=1" {
                    silent_since = Some(Instant::now());
                }
            }
            let is_stuck = silent_since
                .zip(self.watchdog)
                .is_some_and(|(since, limit): (Instant, _)| since.elapsed() > limit);
            if is_stuck {
                println!("stuck");
                signal(daemon.as_ref(), Signal::SIGKILL);
                silent_since = None;
            }
            for order in self.orders.try_iter() {
                match order.as_str() {
                    "hold" => held_back = true,
                    "start" => held_back = false,
                    name => signal(daemon.as_ref(), name.parse().expect("a signal's name")),
                }
            }
            if let Some(child) = &mut daemon
                && let Some(status) = child.try_wait().expect("wait for the daemon")
            {
                println!("ended: {status}");
                (daemon, silent_since) = (None, None);
            }
            if daemon.is_none() && !held_back {
                daemon = Some(start());
            }
        }
    }

    /// The lines of the next message, if there is one soon.
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.notify.recv(&mut message).unwrap_or(0);
        let message = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        message.lines().map(str::to_owned).collect()
    }
}

fn signal(daemon: Option<&Child>, signal: Signal) {
    let id = daemon.and_then(|child| i32::try_from(child.id()).ok()).expect("a running daemon");
    kill(Pid::from_raw(id), signal).expect("send a signal");
}
