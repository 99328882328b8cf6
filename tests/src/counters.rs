//! What a host's kernel counts.

use std::fs;
use std::path::Path;

use crate::process::Process;
use crate::world::Host;

/// The counters of the host that a process runs on, seen from anywhere in the world.
#[derive(Debug, Clone)]
pub struct Counters {
    pid: i32,
}

impl Counters {
    /// The counters of this process's host.
    pub fn of(process: &Process) -> Self {
        Self { pid: process.id() }
    }

    /// The file in which they are, for [`udp`].
    pub fn file(&self) -> String {
        format!("/proc/{}/net/snmp", self.pid)
    }

    /// How many datagrams the host's programs have taken from their sockets, over IPv4.
    #[track_caller]
    pub fn datagrams_taken(&self) -> u64 {
        udp(self.file().as_ref(), "InDatagrams")
    }

    /// How many datagrams over IPv4 were lost at a socket, for want of room or by a wrong checksum.
    #[track_caller]
    pub fn datagrams_lost(&self) -> u64 {
        udp(self.file().as_ref(), "InErrors")
    }
}

/// A counter of RFC 4113, from a file as /proc/net/snmp: a line of names, and a line of numbers.
#[track_caller]
pub fn udp(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("read the kernel's counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let counter = names.zip(numbers).find(|(known, _)| *known == name);
    counter.expect("a counter of that name").1.parse().expect("a number")
}

impl Host<'_> {
    /// How many connections this host tracks.
    #[track_caller]
    pub fn connections_tracked(self) -> u64 {
        let count = self.run(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).success();
        count.stdout.trim().parse().expect("a number")
    }
}
