//! The datagram through the whole of `decide`: whatever is sent from wherever, however the clock is stepped
//! and the daemon restarted, what the gate says is what PROTOCOL.md's ten checks say; and whoever is banned has
//! failed too often, and holds no door.

mod bans;
mod grants;
mod oracle;
mod world;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use common::{
    Action, ClientAddress, DATAGRAM_LEN, Day, Mac, OpenFor, REQUEST_LEN, ReplyWanted, Request,
    Timestamp, UnicastAddress,
};
use knockd::gate::{
    Gate,
    bans::BanKind,
    clock::{Now, Uptime},
    counters::{Advance, Counter},
    decision::{Accepted, Decision, Memory, Refusal},
    directory::{ClientId, Progress},
    grants::{Grants, Owner},
    replay::{Floor, ReplayMemory},
    source::Source,
};

use self::world::{CAPACITY, CAST, SKEW_MS, START_MS, enrolment, skew};
use crate::{input::Input, seal::seal};

/// The most things that happen in one story: it bounds the time that one input takes.
const ACTS: usize = 12;

/// Acts from this byte on are an admin's.
const RULE: u8 = 252;
/// The latest uptime that a story can get to, in milliseconds: thirty years.
const LATEST: u64 = 1 << 40;

/// Reads the input as a story: packets made and sent, clocks stepped, clients changed, bans, restarts.
pub fn decide(data: &[u8]) {
    let mut input = Input::new(data);
    let mut story = Story::begin();
    for _ in 0..ACTS {
        if input.is_empty() {
            return;
        }
        let act = input.byte();
        if act >= RULE {
            story.rule(&mut input);
            continue;
        }
        match act % 12 {
            0..4 => story.make_packet(&mut input),
            4 | 5 => story.send_again(&mut input),
            6 => story.send_junk(&mut input),
            7 => story.step_clocks(&mut input),
            8 => story.prepare(&mut input),
            9 => story.take_back(),
            10 => story.restart(&mut input),
            _ => story.change_client(&mut input),
        }
    }
}

/// A packet that was sealed with a key.
struct Sealed {
    /// Whose key: an index into [`CAST`].
    by: usize,
    /// Whether it is that one's old key.
    is_old: bool,
    day: Day,
    request: [u8; REQUEST_LEN],
    datagram: [u8; DATAGRAM_LEN],
}

impl Sealed {
    fn mac(&self) -> Mac {
        Mac::from_bytes(*self.datagram.last_chunk().expect("a datagram ends with its mac"))
    }
}

/// Someone of the cast, as the daemon knows him.
#[derive(Clone, Copy)]
struct Known {
    /// `None` for somebody who isn't in the directory.
    id: Option<ClientId>,
    enabled: bool,
}

struct Story {
    gate: Gate,
    now: Now,
    known: Vec<Known>,
    sealed: Vec<Sealed>,
    /// Every packet ever accepted, in this run or before a restart.
    accepted: HashSet<Mac>,
    /// The packet accepted last, if nothing happened since, and by whom.
    last: Option<(Mac, Memory, usize)>,
    /// The last number accepted of each of the cast that has no clock.
    numbers: HashMap<usize, u64>,
    /// Which day the tags were made around, and whether all of them are.
    tags: (Day, Progress),
    capacity: usize,
    grants: Grants,
    /// Who holds which door, and until when.
    held: HashMap<Owner, Uptime>,
    /// The addresses that each client holds doors for, in the order of its last knock from each.
    visited: HashMap<ClientId, Vec<UnicastAddress>>,
    /// Who must be banned, by whom, and until when.
    banned: HashMap<Source, (BanKind, Uptime)>,
    /// When each source's failures are all refilled, in milliseconds of uptime.
    refilled: HashMap<Source, u64>,
}

impl Story {
    fn begin() -> Self {
        let (gate, known) = world::gate();
        let now =
            Now { utc: Timestamp::from_millis(START_MS), uptime: Uptime::from_millis(1_000_000) };
        let day = Day::of(now.utc).expect("it is a day of this age");
        let mut story = Self {
            gate,
            now,
            known,
            sealed: Vec::new(),
            accepted: HashSet::new(),
            last: None,
            numbers: HashMap::new(),
            tags: (day, Progress::More),
            capacity: CAPACITY as usize,
            grants: Grants::default(),
            held: HashMap::new(),
            visited: HashMap::new(),
            banned: HashMap::new(),
            refilled: HashMap::new(),
        };
        story.make_tags(usize::MAX);
        story
    }

    /// Seals a request of one of the cast, and perhaps breaks it before; sends it, unless it is held back.
    fn make_packet(&mut self, input: &mut Input<'_>) {
        let by = input.below(CAST.len());
        let how = input.byte();
        let source = source(input);
        let now = self.now.utc.as_millis();
        let millis = match how & 7 {
            0..3 => now,
            3 => now.saturating_add_signed(i64::from(input.number::<i16>())),
            4 => now.saturating_add(SKEW_MS).saturating_add_signed(i64::from(input.number::<i8>())),
            5 => now.saturating_sub(SKEW_MS).saturating_add_signed(i64::from(input.number::<i8>())),
            6 => now.saturating_add_signed(i64::from(input.number::<i32>())),
            _ => input.number(),
        };
        let millis = match CAST[by].counts() {
            true => {
                let last = self.numbers.get(&by).copied().unwrap_or(1_000);
                last.saturating_add_signed(i64::from(input.number::<i8>()))
            }
            false => millis,
        };
        let timestamp = Timestamp::from_millis(millis);
        let day = match how >> 3 & 7 {
            0..6 if CAST[by].counts() => None,
            0..6 => Day::of(timestamp),
            6 => Day::of(self.now.utc),
            _ => None,
        };
        let unicast = |ip| UnicastAddress::try_from(ip).map(ClientAddress::Literal);
        let request = Request {
            timestamp,
            address: match how >> 6 {
                0 | 1 => unicast(source),
                2 => Ok(ClientAddress::Observed),
                _ => unicast(self::source(input)),
            }
            .unwrap_or(ClientAddress::Observed),
            open_for: OpenFor::from_secs(input.number::<u16>().into()),
            action: *input.one_of(&[Action::Open, Action::Close]),
            reply: *input.one_of(&[ReplyWanted::No, ReplyWanted::Yes]),
            service: match input.below(4) {
                0 => None,
                1 => "mqtts".parse().ok(),
                2 => "coaps".parse().ok(),
                _ => "none".parse().ok(),
            },
        };
        let mut bytes = request.to_bytes();
        let (mut nonce, last_act) = ([0; 12], input.byte());
        nonce[0] = last_act >> 3;
        if last_act & 1 != 0 {
            bytes[input.below(REQUEST_LEN)] ^= input.byte();
        }
        let day = day.unwrap_or(Day::COUNTER);
        let old_keys = CAST[by].old_keys().filter(|_| last_act & 4 != 0);
        let datagram = seal(old_keys.unwrap_or(CAST[by].keys()), day, nonce, &bytes);
        let is_old = old_keys.is_some();
        self.sealed.push(Sealed { by, is_old, day, request: bytes, datagram });
        if last_act & 2 == 0 {
            self.send(&datagram, source);
        }
    }

    /// Sends a packet that was made before, as it was or changed on the way.
    fn send_again(&mut self, input: &mut Input<'_>) {
        if self.sealed.is_empty() {
            return;
        }
        let mut datagram = input.one_of(&self.sealed).datagram.to_vec();
        let source = source(input);
        match input.below(4) {
            0 | 1 => {}
            2 => datagram[input.below(DATAGRAM_LEN)] ^= input.byte(),
            _ => datagram.resize(usize::from(input.byte()), 0),
        }
        self.send(&datagram, source);
    }

    /// Sends bytes that come from the input alone.
    fn send_junk(&mut self, input: &mut Input<'_>) {
        let source = source(input);
        let length = usize::from(input.byte());
        let mut junk = input.bytes(length).to_vec();
        // Half of the junk has a good tag.
        if let ([tag @ .., _], Some(sealed)) = (&mut junk[..], self.sealed.last())
            && length % 2 == 0
        {
            tag.iter_mut().zip(&sealed.datagram[..8]).for_each(|(to, from)| *to = *from);
        }
        self.send(&junk, source);
    }

    /// Both clocks, each in either direction.
    fn step_clocks(&mut self, input: &mut Input<'_>) {
        let step = |input: &mut Input<'_>, millis: u64| match input.below(6) {
            0 => millis.saturating_add_signed(input.number::<i16>().into()),
            1 => millis.saturating_add_signed(i64::from(input.number::<i8>()) * 1_000),
            2 => millis.saturating_add_signed(input.number::<i32>().into()),
            3 => millis.saturating_add_signed(i64::from(input.number::<i8>()) * 86_400_000),
            4 => input.number(),
            _ => millis,
        };
        self.now = Now {
            utc: Timestamp::from_millis(step(input, self.now.utc.as_millis())),
            uptime: Uptime::from_millis(step(input, self.now.uptime.as_millis()).min(LATEST)),
        };
        self.last = None;
        self.settle();
    }

    fn prepare(&mut self, input: &mut Input<'_>) {
        let budget = match input.byte() {
            255 => usize::MAX,
            few => usize::from(few % 32),
        };
        self.make_tags(budget);
    }

    fn make_tags(&mut self, budget: usize) {
        let mut collisions = Vec::new();
        let progress = self.gate.prepare(self.now.utc, budget, &mut collisions);
        assert!(collisions.is_empty(), "{collisions:?}");
        if let Some(day) = Day::of(self.now.utc) {
            self.tags = (day, progress);
        }
    }

    /// What was accepted last could not be written down, and so was not accepted.
    fn take_back(&mut self) {
        let Some((mac, memory, by)) = self.last.take() else { return };
        self.accepted.remove(&mac);
        match memory {
            Memory::Mac => self.gate.replay_mut().take_back(1),
            Memory::Counter(advance @ Advance { before, .. }) => {
                self.gate.counters_mut().take_back(advance);
                self.numbers.remove(&by);
                if let Some(Counter::Last(last)) = before {
                    self.numbers.insert(by, last);
                }
            }
        }
    }

    /// The memory as a restart takes it up again, perhaps into less room; or finds it lost.
    fn restart(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        self.capacity = match choice {
            0..128 | 255 => self.capacity,
            other => 1 + usize::from(other) % CAPACITY as usize,
        };
        let before = self.gate.replay();
        let is_lost = choice == 255;
        let floor = match is_lost {
            true => Floor { lost_before: Some(self.now.uptime), ..before.floor() },
            false => before.floor(),
        };
        let mut memory = ReplayMemory::new(world::limits(self.capacity), skew(), floor);
        if is_lost {
            self.accepted.clear();
        } else {
            memory.restore(before.packets().copied());
        }
        *self.gate.replay_mut() = memory;
        self.assert_bounds();
        self.last = None;
    }

    /// Switches a client off or on, removes it, or adds it again: a reload.
    fn change_client(&mut self, input: &mut Input<'_>) {
        let by = input.below(CAST.len());
        let known = &mut self.known[by];
        let directory = self.gate.directory_mut();
        match (known.id, input.below(2)) {
            (Some(id), 0) => {
                known.enabled = !known.enabled;
                directory.replace(vec![(id, enrolment(by, known.enabled))]);
            }
            (Some(id), _) => {
                directory.remove(id);
                known.id = None;
                self.settle();
                // From here on its place is the next one's.
                self.gate.forget(&[id].into());
                self.visited.remove(&id);
                return;
            }
            (None, _) if CAST[by].is_client() => {
                known.id = Some(directory.add(enrolment(by, known.enabled)));
            }
            (None, _) => {}
        }
        self.settle();
    }

    /// Sends a datagram, and compares what the gate says with what it must say.
    fn send(&mut self, datagram: &[u8], source: IpAddr) {
        let forgotten = self.gate.replay().floor().forgotten;
        let next = self.next_number();
        let sealed = self.sealed.iter().find(|sealed| sealed.datagram == *datagram);
        let sealed_by = sealed.map(|sealed| sealed.by);
        let must = sealed.map(|sealed| self.verdict(sealed, source.to_canonical()));
        let decision = self.gate.decide(datagram, source, self.now);

        match (&decision, must) {
            (Decision::Accept(accepted), Some(Ok(must))) => {
                self.assert_drifts(accepted);
                assert_eq!(Accepted { drift: None, ..accepted.clone() }, must);
                assert!(self.accepted.insert(accepted.mac), "accepted twice: {accepted:?}");
                let remembered = u64::from(accepted.memory == Memory::Mac);
                assert_eq!(self.next_number(), next + remembered);
                let by = sealed_by.expect("somebody has sealed it");
                if let Memory::Counter(Advance { to, .. }) = accepted.memory {
                    self.numbers.insert(by, to);
                }
                self.last = Some((accepted.mac, accepted.memory, by));
            }
            (Decision::Refuse(Refusal { client, reason }), must) => {
                assert_eq!(self.next_number(), next, "a refused packet was remembered");
                match must {
                    None => assert!(
                        client.is_none()
                            && match datagram.len() {
                                DATAGRAM_LEN => ["unknown-tag", "bad-mac"].contains(&reason.name()),
                                _ => reason.name() == "malformed",
                            },
                        "nobody's packet: {decision:?}"
                    ),
                    Some(Ok(must)) => match reason.name() {
                        "replay-memory-full" => self.assert_full(must.client),
                        // Its tag's turn has not come yet.
                        "unknown-tag" => assert_eq!(self.tags.1, Progress::More),
                        _ => panic!("{decision:?} where it must be {must:?}"),
                    },
                    Some(Err((id, must))) => {
                        let in_time = reason.name() == must && *client == id;
                        let untagged = reason.name() == "unknown-tag" && client.is_none();
                        assert!(
                            in_time || untagged && self.tags.1 == Progress::More,
                            "{decision:?} where it must be {must} of {id:?}"
                        );
                    }
                }
                self.last = None;
            }
            (Decision::Accept(_), must) => panic!("{decision:?} where it must be {must:?}"),
        }
        self.assert_forgets_only_what_is_stale(forgotten);
        self.assert_bounds();
        match decision {
            Decision::Accept(accepted) => self.admit(&accepted, source),
            Decision::Refuse(refusal) => self.strike(source, refusal),
        }
    }

    /// The number that the next packet gets.
    fn next_number(&self) -> u64 {
        self.gate.replay().oldest() + self.gate.replay().packets().len() as u64
    }
}

/// Where a datagram comes from: mostly from one of a few places.
fn source(input: &mut Input<'_>) -> IpAddr {
    match input.below(12) {
        0..3 => Ipv4Addr::new(10, 77, 0, 2).into(),
        3 => Ipv4Addr::new(10, 77, 0, 2).to_ipv6_mapped().into(),
        4 => Ipv4Addr::new(10, 3, 1, 1).into(),
        5 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
        6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        7 => Ipv4Addr::LOCALHOST.into(),
        8 => Ipv4Addr::UNSPECIFIED.into(),
        9 => Ipv6Addr::UNSPECIFIED.into(),
        10 => Ipv4Addr::from_bits(input.number()).into(),
        _ => Ipv6Addr::from_bits(input.number()).into(),
    }
}
