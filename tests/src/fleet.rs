//! A fleet of devices that knock once each: every packet is told apart from all others by its client and source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Secret,
    Timestamp, UnicastAddress, seal,
};
use data_encoding::{BASE64, HEXLOWER};

use crate::binaries;
use crate::door::{Daemon, Door, KNOCK_PORT, Settings};
use crate::process::Process;
use crate::world::World;

/// The allowed clock skew, in seconds: whatever a test has sent is fresh until its end.
const SKEW: u64 = 300;
/// The clock of the fleet: what it sends a second after the daemon's first start is accepted.
const AHEAD: Duration = Duration::from_secs(SKEW - 1);

/// Who sent a packet, and from where.
pub type Pair = (String, String);

/// Some clients at some addresses of the client's host, and who sends for them.
#[derive(Debug)]
pub struct Fleet {
    clients: Vec<(String, ClientKeys)>,
    addresses: Vec<Ipv4Addr>,
    ahead: Duration,
    sender: Process,
    /// What was sent, in its order: by whom, and the datagram in hex.
    sent: Vec<(Pair, String)>,
}

impl Fleet {
    /// Enrols so many clients, and gives the client's host so many addresses (100 at most).
    #[track_caller]
    pub fn new(door: &Door<'_>, world: &World, clients: usize, addresses: u8) -> Self {
        let addresses: Vec<_> =
            (0..addresses).map(|number| Ipv4Addr::new(10, 77, 0, 100 + number)).collect();
        let batch: Vec<String> =
            addresses.iter().map(|address| format!("addr add {address}/32 dev eth0")).collect();
        world.ip(Some("client"), &batch.join("\n"));
        let enrol = |number: usize| {
            let name = format!("device-{number}");
            let key = BASE64.decode(door.enrol(&name).key().as_bytes()).expect("a key in base64");
            let secret = Secret::new(key.try_into().expect("32 bytes")).expect("a good key");
            (name, ClientKeys::derive(&secret, &Realm::default()))
        };
        let (packet, to) =
            (binaries::path("packet"), SocketAddr::new(world.broker().v4(), KNOCK_PORT));
        let sender = world.client().spawn(&[&packet, "volley", "--to", &to.to_string()], &[]);
        let clients = (0..clients).map(enrol).collect();
        Self { clients, addresses, ahead: AHEAD, sender, sent: Vec::new() }
    }

    /// The same with clocks that are right.
    #[must_use]
    pub fn on_time(self) -> Self {
        Self { ahead: Duration::ZERO, ..self }
    }

    /// Knocks for ten minutes, from a client and address that have not knocked before.
    #[track_caller]
    pub fn knock(&mut self) -> Pair {
        let number = self.sent.len();
        let (name, keys) = &self.clients[number / self.addresses.len()];
        let address = self.addresses[number % self.addresses.len()];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let stamp = u64::try_from((now + self.ahead).as_millis()).expect("milliseconds");
        let request = Request {
            timestamp: Timestamp::from_millis(stamp),
            address: ClientAddress::Literal(
                UnicastAddress::try_from(IpAddr::V4(address)).expect("one"),
            ),
            open_for: OpenFor::from_secs(600),
            action: Action::Open,
            reply: ReplyWanted::No,
            service: None,
        };
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).expect("random bytes");
        let day = Day::of(request.timestamp).expect("a day");
        let packet = HEXLOWER.encode(&seal(keys, day, Nonce::from_random(nonce), &request));
        let pair = (name.clone(), address.to_string());
        self.sender.write_line(&format!("{address} {packet}"));
        self.sent.push((pair.clone(), packet));
        pair
    }

    /// Sends the next knock, and waits until it is told as granted.
    #[track_caller]
    pub fn gets_in(&mut self, daemon: &Daemon) {
        let (client, source) = self.knock();
        let (client, source) = (format!("client={client} "), format!("source={source} "));
        daemon.tells(&[&client, &source, "decision=\"granted\""]);
    }

    /// Sends all that was sent before once more, in its order.
    pub fn knock_again(&mut self) {
        for ((_, address), packet) in &self.sent {
            self.sender.write_line(&format!("{address} {packet}"));
            // Slower than a daemon takes them: none is lost.
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Fails six times from an address of its own.
    pub fn fail(&mut self, address: &str) {
        for _ in 0..6 {
            self.sender.write_line(&format!("{address} {}", "aa".repeat(116)));
        }
    }

    /// Whose packets were sent.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        self.sent.iter().map(|(pair, _)| pair.clone()).collect()
    }
}

/// Lets six packets in a row without a tag reach the daemon.
/// Each client knocks from more addresses than it may hold at once by default.
const TABLES: &str = "[prefilter]\njunk-budget = 1000000\n[grant]\nper-client = 4096\n";

/// What a test with a fleet has to say about knockd.toml.
pub fn settings() -> Settings<'static> {
    Settings { skew: SKEW, tables: TABLES, ..Settings::default() }
}

/// Starts the daemon, and waits until it would accept what a fleet sends.
#[track_caller]
pub fn ready(door: &Door<'_>) -> Daemon {
    let daemon = door.start();
    daemon.wait_out(Duration::from_secs(SKEW) - AHEAD);
    daemon
}

/// What a line of the log says of this.
#[track_caller]
pub fn field(line: &str, name: &str) -> String {
    let (_, rest) =
        line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name}: {line}"));
    rest.split_whitespace().next().expect("a value").trim_matches('"').to_owned()
}

/// Whom a log tells as granted, in its order.
pub fn granted(log: &str) -> Vec<Pair> {
    let lines = log.lines().filter(|line| line.contains("decision=\"granted\""));
    lines.map(|line| (field(line, "client"), field(line, "source"))).collect()
}

/// Who holds a door, as `knockd grants` lists it, and for how many seconds yet.
#[track_caller]
pub fn held(door: &Door<'_>) -> BTreeMap<Pair, u64> {
    let text = |value: &serde_json::Value| value.as_str().expect("a known client").to_owned();
    let pair = |grant: &serde_json::Value| (text(&grant["client"]), text(&grant["address"]));
    let left = |grant: &serde_json::Value| grant["remaining-s"].as_u64().expect("a number");
    door.grants().iter().map(|grant| (pair(grant), left(grant))).collect()
}

/// Who is banned, as `knockd bans` lists it.
#[track_caller]
pub fn banned(door: &Door<'_>) -> BTreeSet<String> {
    let answer = door.run(&["bans", "--json"]).success().json();
    let bans = answer["bans"].as_array().expect("a list").clone();
    bans.iter().map(|ban| ban["source"].as_str().expect("a source").to_owned()).collect()
}
