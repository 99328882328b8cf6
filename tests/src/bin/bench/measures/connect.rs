//! From the start of the client's process to the first accepted TCP connection.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Bench;
use crate::door::{Door, Settings};
use crate::fleet::{KNOCK_PORT, SERVICE_PORT, address};
use crate::rig::{BROKER, DAEMON_CORE, Side, device_is};
use crate::service::{Credulous, opens_within};
use crate::stats::{Samples, shown};
use crate::{peers, profile};

/// How long a client has.
const LIMIT: Duration = Duration::from_secs(3);

/// How a client program is run, and whether it waits for the port by itself.
pub(crate) struct Client<'a> {
    /// Makes the command, for a device at this address.
    pub(crate) command: &'a (dyn Fn(std::net::Ipv4Addr) -> Command + Sync),
    pub(crate) waits: bool,
}

/// What came of many attempts.
pub(crate) struct Attempts {
    pub(crate) opened: Samples,
    pub(crate) count: u32,
    /// Of the client's process alone, where it doesn't wait for the port.
    pub(crate) process: Samples,
}

/// Runs a client so many times, each time from an address that nothing is open for.
pub(crate) fn attempts(client: &Client<'_>, first_device: u32, count: u32) -> Attempts {
    let mut opened = Vec::new();
    let mut process = Vec::new();
    for device in first_device..first_device + count {
        device_is(address(device));
        let mut command = (client.command)(address(device));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let waits = client.waits;
        let (ended, is_open, took) = Side::Device.within(None, move || {
            let start = Instant::now();
            let status = command.status().expect("run a client");
            let ended = start.elapsed();
            let is_open = if waits { status.success() } else { opens_within(LIMIT) };
            (ended, is_open, start.elapsed())
        });
        process.push(ended);
        if is_open {
            opened.push(took);
        }
    }
    Attempts { opened: Samples::new(opened), count, process: Samples::new(process) }
}

pub(crate) fn measure(bench: &mut Bench) {
    let count = bench.scaled(100, 20);
    let settings = Settings { skew: Duration::from_secs(1), ..Settings::default() };
    let door = Door::new(&bench.programs.knockd, &settings);
    let profile = profile::write(door.dir(), 0);

    eprintln!("  knock, dynamic and static");
    let daemon = door.start();
    daemon.wait_out();
    let run = |program: &std::path::Path, first| {
        let command = |_| profile::command(program, &profile, &["--quiet", "--wait=3s"]);
        attempts(&Client { command: &command, waits: true }, first, count)
    };
    let dynamic = run(&bench.programs.knock, 0);
    let linked = run(&bench.programs.knock_static, 1_000);
    if dynamic.opened.len() < count as usize || linked.opened.len() < count as usize {
        let opened = format!("{} and {} of {count}", dynamic.opened.len(), linked.opened.len());
        bench.report.failed("connect", &format!("{opened} opened; {}", daemon.process.log()));
    }
    daemon.process.end();

    eprintln!("  the bare limit");
    let bare = {
        let _credulous = Credulous::start(DAEMON_CORE);
        let program = &bench.programs.bare;
        let command = |_| {
            let mut command = Command::new(program);
            command.arg(format!("{BROKER}:{KNOCK_PORT}")).arg(format!("{BROKER}:{SERVICE_PORT}"));
            command
        };
        attempts(&Client { command: &command, waits: true }, 2_000, count)
    };
    drop(door);

    let peers = peers(bench, count);
    let best = peers.iter().filter(|(_, peer)| peer.opened.len() * 2 > peer.count as usize);
    let best = best.min_by_key(|(_, peer)| peer.opened.median());

    let limit = bare.opened.shown();
    for (name, attempts) in [("dynamic", &dynamic), ("static", &linked)] {
        bench.report.row(
            &format!("client start → connected ({name}), median / p99"),
            &attempts.opened.shown(),
            &best
                .map_or_else(String::new, |(name, best)| format!("{} {name}", best.opened.shown())),
            &limit,
            &ratio(&attempts.opened, best.map(|(_, best)| &best.opened), &bare.opened),
        );
        let own = attempts.opened.median();
        if let Some((peer, best)) = best {
            let to_peer = own.as_secs_f64() / best.opened.median().as_secs_f64();
            bench.report.bar(
                &format!("client start → connect ({name}), to the best peer"),
                "at most 0.50 ×",
                &format!(
                    "{to_peer:.2} × ({} to {} of {peer})",
                    shown(own),
                    shown(best.opened.median())
                ),
                to_peer <= 0.5,
            );
        }
        let to_limit = own.as_secs_f64() / bare.opened.median().as_secs_f64();
        bench.report.bar(
            &format!("client start → connect ({name}), to the bare limit"),
            "at most 2.5 ×",
            &format!("{to_limit:.2} × ({} to {})", shown(own), shown(bare.opened.median())),
            to_limit <= 2.5,
        );
    }
    let of_peers: Vec<_> = peers
        .iter()
        .map(|(name, peer)| {
            json!({
                "name": name, "opened": peer.opened.json(), "of": peer.count,
                "client_process": peer.process.json(),
            })
        })
        .collect();
    bench.report.raw(
        "connect",
        json!({
            "knock": dynamic.opened.json(), "knock_static": linked.opened.json(),
            "bare": bare.opened.json(),
            "peers": of_peers,
        }),
    );
}

/// The ratios to a peer and to the limit.
fn ratio(own: &Samples, peer: Option<&Samples>, limit: &Samples) -> String {
    let to = |other: &Samples| own.median().as_secs_f64() / other.median().as_secs_f64();
    let peer = peer.map_or_else(String::new, |peer| format!("{:.2} × the peer, ", to(peer)));
    format!("{peer}{:.2} × the limit", to(limit))
}

/// The same with each peer.
fn peers(bench: &mut Bench, count: u32) -> Vec<(&'static str, Attempts)> {
    let mut all = Vec::new();
    for start in peers::ALL {
        let peer = start(bench);
        eprintln!("  {}", peer.name);
        let attempts = attempts(&Client { command: &*peer.client, waits: false }, 3_000, count);
        let opened = attempts.opened.len();
        eprintln!("    {opened} of {count}: {}", attempts.opened.shown());
        if opened == 0 {
            bench.report.failed(&format!("connect with {}", peer.name), &peer.log());
        }
        all.push((peer.name, attempts));
    }
    all
}
