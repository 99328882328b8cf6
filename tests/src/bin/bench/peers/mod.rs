//! What a user would pick instead, running in knockd's place.

pub(crate) mod fwknop;
pub(crate) mod letmein;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::Bench;
use crate::rig::Side;
use crate::running::Running;

/// A peer's daemons at work, and its client.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    daemons: Vec<Running>,
    /// Makes the client's command, for a device at this address.
    pub(crate) client: Box<dyn Fn(Ipv4Addr) -> Command + Sync>,
    _dir: TempDir,
}

impl Peer {
    pub(crate) fn cpu(&self) -> Duration {
        self.daemons.iter().map(Running::cpu).sum()
    }

    pub(crate) fn rss_kib(&self) -> u64 {
        self.daemons.iter().map(Running::rss_kib).sum()
    }

    /// What its daemons said, for when something went wrong.
    pub(crate) fn log(&self) -> String {
        self.daemons.iter().map(Running::log).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for daemon in self.daemons.drain(..) {
            daemon.end();
        }
        Side::Broker.run("nft", &["flush", "ruleset"], "");
    }
}

/// How a peer is started.
pub(crate) type Start = fn(&Bench) -> Peer;

/// All of them.
pub(crate) const ALL: [Start; 3] = [
    |_| fwknop::start(fwknop::Mode::Pcap),
    |_| fwknop::start(fwknop::Mode::UdpServer),
    letmein::start,
];
