//! Devices that knock: hundreds enrolled in one file, and a stream of their knocks, each from an address that no
//! other has. A knock that was taken shows as the grant of its address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Secret,
    Timestamp, UnicastAddress, seal,
};
use data_encoding::BASE64;

use crate::lan::{self, BROKER, KNOCK_PORT};
use crate::machine::Machine;
use crate::wait::wait;

/// How many devices there are.
const DEVICES: usize = 500;
/// Knocks a second.
pub(crate) const RATE: u32 = 100;
/// How long each opens its door: longer than the test counts.
const OPEN_FOR: Duration = Duration::from_secs(1800);
/// How far the devices' clocks are ahead, within the allowed skew: copies of a packet stay fresh for longer, so that
/// it is the memory of it that refuses them. Not beyond the ceiling (15 s), where a packet waits for the disk.
const AHEAD: Duration = Duration::from_secs(10);
/// The first address that junk comes from: no device has it.
const JUNK_FROM: usize = 20_000;
/// The file with their entries.
pub(crate) const FILE: &str = "/etc/knockd/clients.d/fleet.toml";

/// The secret of a device: different for each, and no secret at all.
fn secret(device: usize) -> [u8; 32] {
    let mut bytes = *b"........a test's, not any secret";
    bytes[..8].copy_from_slice(&device.to_be_bytes());
    bytes
}

/// The entries of all devices, for a file in clients.d.
pub(crate) fn entries() -> String {
    let mut text = String::new();
    for device in 0..DEVICES {
        let key = BASE64.encode(&secret(device));
        writeln!(
            text,
            "[[client]]\nname = \"device-{device:03}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n"
        )
        .expect("write to a string");
    }
    text
}

/// A knock that was sent.
#[derive(Clone)]
struct Sent {
    address: Ipv4Addr,
    packet: Vec<u8>,
    at: Instant,
}

/// All devices, and what they have sent.
pub(crate) struct Fleet {
    keys: Arc<Vec<ClientKeys>>,
    next: Arc<AtomicUsize>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let derive = |device| {
            let secret = Secret::new(secret(device)).expect("not all bytes are the same");
            ClientKeys::derive(&secret, &Realm::default())
        };
        Self { keys: Arc::new((0..DEVICES).map(derive).collect()), next: Arc::default() }
    }

    /// Starts a stream of knocks at [`RATE`].
    pub(crate) fn stream(&self) -> Stream {
        let (end, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (keys, next) = (Arc::clone(&self.keys), Arc::clone(&self.next));
        let (seen_end, written): (_, Arc<Mutex<Vec<Sent>>>) = (Arc::clone(&end), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            lan::join();
            let (start, mut count) = (Instant::now(), 0_u32);
            while !seen_end.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let address = lan::crowd(number);
                let packet = knock(&keys[number % DEVICES], address);
                send(address, &packet);
                written.lock().unwrap().push(Sent { address, packet, at: Instant::now() });
                count += 1;
                let due = Duration::from_secs(1) * count / RATE;
                sleep(due.saturating_sub(start.elapsed()));
            }
            start.elapsed()
        });
        Stream { end, sent, thread }
    }
}

/// A running stream.
pub(crate) struct Stream {
    end: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    thread: JoinHandle<Duration>,
}

impl Stream {
    /// Sends a copy of each packet of the last seconds, from where it came, as one who listens can.
    pub(crate) fn send_copies(&self, of_the_last: Duration) -> usize {
        let sent = self.sent.lock().unwrap().clone();
        let copies: Vec<_> = sent.iter().filter(|sent| sent.at.elapsed() < of_the_last).collect();
        send_again(copies.iter().copied());
        copies.len()
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Knocks {
        self.end.store(true, Ordering::Relaxed);
        let lasted = self.thread.join().expect("the stream of knocks");
        let sent = self.sent.lock().unwrap().clone();
        Knocks { sent, lasted }
    }
}

/// Sends copies, slower than any daemon takes them.
fn send_again<'a>(copies: impl Iterator<Item = &'a Sent> + Send) {
    lan::within(|| {
        for copy in copies {
            send(copy.address, &copy.packet);
            sleep(Duration::from_millis(2));
        }
    });
}

/// What a stream has sent.
pub(crate) struct Knocks {
    sent: Vec<Sent>,
    pub(crate) lasted: Duration,
}

impl Knocks {
    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.sent.len()
    }

    /// How many a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.count()).expect("a number of knocks"))
            / self.lasted.as_secs_f64()
    }

    /// Those that were sent from this moment on.
    pub(crate) fn since(&self, moment: Instant) -> Self {
        let sent: Vec<_> = self.sent.iter().filter(|sent| sent.at >= moment).cloned().collect();
        let lasted = sent.last().map_or(Duration::ZERO, |last| last.at - moment);
        Self { sent, lasted }
    }

    /// Where they came from.
    fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.sent.iter().map(|sent| sent.address).collect()
    }

    /// Where the last so many came from.
    pub(crate) fn last(&self, count: usize) -> Vec<Ipv4Addr> {
        self.sent.iter().rev().take(count).map(|sent| sent.address).collect()
    }

    /// Sends a copy of what came from these addresses, as one who listens can.
    pub(crate) fn send_copies_of(&self, addresses: &[Ipv4Addr]) {
        send_again(self.sent.iter().filter(|sent| addresses.contains(&sent.address)));
    }

    /// Waits until each has its grant, in the daemon's books and in the kernel.
    #[track_caller]
    pub(crate) fn all_granted(&self, machine: &Machine) {
        self.all_granted_but(machine, |_| false);
    }

    /// The same, but for those of moments at which they may be lost. Returns how many of these were.
    #[track_caller]
    pub(crate) fn all_granted_but(
        &self,
        machine: &Machine,
        may_be_lost: impl Fn(Instant) -> bool,
    ) -> usize {
        assert!(
            self.rate() > f64::from(RATE) * 0.9,
            "this machine sends only {:.0}/s",
            self.rate()
        );
        let mut missing = self.addresses();
        let must_be_there = |missing: &BTreeSet<Ipv4Addr>| {
            let must = |sent: &&Sent| missing.contains(&sent.address) && !may_be_lost(sent.at);
            self.sent.iter().find(must)
        };
        wait("every knock has its grant", || {
            let granted = grants(machine);
            missing.retain(|address| !granted.contains_key(address));
            let Some(first) = must_be_there(&missing) else { return true };
            // What isn't there seconds after the last knock has been lost.
            let last = self.sent.last().expect("knocks were sent").at.elapsed();
            if last > Duration::from_secs(20) {
                let source = format!("KNOCKD_SOURCE={}", first.address);
                panic!(
                    "{} of {} knocks were lost; the first lost was sent {:?} ago, of which is told:\n{}",
                    missing.len(),
                    self.count(),
                    first.at.elapsed(),
                    machine.run(&["journalctl", "-q", "-o", "short-precise", &source]).stdout
                );
            }
            false
        });
        let in_kernel = machine.run(&["nft", "list", "set", "inet", "knockd", "door4"]).success();
        for address in self.addresses().difference(&missing) {
            assert!(
                in_kernel.stdout.contains(&format!(" {address} .")),
                "{address} isn't in door4"
            );
        }
        missing.len()
    }

    /// How often each was told as granted in the journal since this cursor; those that were not are left out.
    #[track_caller]
    pub(crate) fn told(&self, machine: &Machine, cursor: &str) -> BTreeMap<Ipv4Addr, usize> {
        let wanted = self.addresses();
        let mut told = BTreeMap::new();
        for entry in crate::scenes::journal::entries(machine, cursor, &["KNOCKD_DECISION=granted"])
        {
            let source = entry["KNOCKD_SOURCE"].as_str().and_then(|source| source.parse().ok());
            if let Some(source) = source.filter(|source| wanted.contains(source)) {
                *told.entry(source).or_default() += 1;
            }
        }
        told
    }
}

/// Who holds a door, as `knockd grants` lists it, and for how many seconds yet.
#[track_caller]
pub(crate) fn grants(machine: &Machine) -> BTreeMap<Ipv4Addr, u64> {
    let answer = machine.run(&["knockd", "grants", "--json"]).success().json();
    let grants = answer["grants"].as_array().expect("a list of grants");
    let grant = |grant: &serde_json::Value| {
        let address = grant["address"].as_str()?.parse().ok()?;
        Some((address, grant["remaining-s"].as_u64()?))
    };
    grants.iter().filter_map(grant).collect()
}

/// One knock of a device from this address.
fn knock(keys: &ClientKeys, from: Ipv4Addr) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970") + AHEAD;
    let address = UnicastAddress::try_from(IpAddr::V4(from)).expect("a client's address");
    let request = Request {
        timestamp: Timestamp::from_millis(u64::try_from(now.as_millis()).expect("milliseconds")),
        address: ClientAddress::Literal(address),
        open_for: OpenFor::from_secs(u32::try_from(OPEN_FOR.as_secs()).expect("seconds")),
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).expect("random bytes");
    let day = Day::of(request.timestamp).expect("a day");
    seal(keys, day, Nonce::from_random(nonce), &request).to_vec()
}

/// Sends a datagram of a knock's length, which is none, from each of so many addresses.
pub(crate) fn send_junk(count: usize) {
    lan::within(|| {
        for number in 0..count {
            let mut junk = [0; common::DATAGRAM_LEN];
            getrandom::fill(&mut junk).expect("random bytes");
            send(lan::crowd(JUNK_FROM + number), &junk);
        }
    });
}

/// Sends a datagram from an address of the devices' host.
fn send(from: Ipv4Addr, packet: &[u8]) {
    let socket = UdpSocket::bind((from, 0)).expect("bind an address of the crowd");
    // While the machine is away there is no way to it: that is no error of the sender, and is told.
    if let Err(error) = socket.send_to(packet, (lan::v4(BROKER), KNOCK_PORT)) {
        println!("    … not sent from {from}: {error}");
    }
}
