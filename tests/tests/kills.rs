//! The daemon is killed at random moments under load: nothing is accepted twice, and nothing that was told is lost.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::fleet::{Fleet, Pair, banned, field, granted, held, ready, settings};
use e2e::table::elements;
use e2e::{Door, World};

/// Numbers that follow from a seed (xorshift), so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn seeded() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(u64::from(now.subsec_nanos()) | 1);
        println!("repeat with SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const KILLS: usize = 100;
/// How many knocks are sent for each kill.
const KNOCKS: u64 = 24;

#[test]
fn killed_a_hundred_times_under_load_it_accepts_nothing_twice_and_loses_no_grant_and_no_ban() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 26, 100);
    let mut dice = Dice::seeded();
    let mut daemon = Some(ready(&door));
    let (mut log, mut bans) = (String::new(), BTreeSet::new());
    for round in 0..KILLS {
        // In every other round it may be killed while it starts.
        let running = daemon.take().unwrap_or_else(|| match round % 2 {
            0 => door.start(),
            _ => door.spawn(),
        });
        if round % 20 == 0 {
            let source = format!("198.51.100.{round}");
            door.run(&["ban", &source, "--for", "1h"]).success();
            bans.insert(source);
        }
        if round % 20 == 10 {
            world.ip(Some("client"), &format!("addr add 10.77.0.{}/32 dev eth0", 210 + round / 10));
            fleet.fail(&format!("10.77.0.{}", 210 + round / 10));
        }
        let end = dice.below(KNOCKS);
        let mut running = Some(running);
        for knock in 0..KNOCKS {
            if knock == end {
                log += &running.take().expect("it runs").kill9();
            }
            fleet.knock();
            sleep(Duration::from_micros(dice.below(4_000)));
        }
    }
    let told_banned = log.lines().filter(|line| line.contains("decision=\"banned\""));
    bans.extend(told_banned.map(|line| field(line, "source")));

    let last = door.start();
    last.tells(&["the memory of accepted packets is whole"]);
    // What is received is dealt with in its order: so all that was sent before has been, when this is.
    fleet.gets_in(&last);
    log += &last.log();
    let told = granted(&log);
    let distinct: BTreeSet<Pair> = told.iter().cloned().collect();
    assert_eq!(told.len(), distinct.len(), "one packet was told as granted twice");
    assert!(told.len() > KILLS, "only {} were granted", told.len());
    assert!(!log.contains("damaged") && !log.contains("-failed\""), "{log}");

    // Whoever was told as granted has his door, and nobody has one who didn't knock.
    let held = held(&door);
    let holders: BTreeSet<Pair> = held.keys().cloned().collect();
    assert_eq!(distinct.difference(&holders).collect::<Vec<_>>(), Vec::<&Pair>::new());
    assert_eq!(holders.difference(&fleet.pairs()).collect::<Vec<_>>(), Vec::<&Pair>::new());
    let mut longest: BTreeMap<String, u64> = BTreeMap::new();
    for ((_, address), left) in &held {
        let entry = longest.entry(address.clone()).or_default();
        *entry = (*left).max(*entry);
    }
    let doors = elements(&world, "door4");
    let open: BTreeSet<String> = doors.iter().map(|(door, _)| first_address(door)).collect();
    assert_eq!(open, longest.keys().cloned().collect());
    for (element, left) in doors {
        let expected = longest[&first_address(&element)];
        // The two were asked for one after the other.
        assert!(left.abs_diff(expected) <= 5, "{element}: {left} s, and {expected} s");
    }
    let lost: Vec<String> = bans.difference(&banned(&door)).cloned().collect();
    assert_eq!(lost, Vec::<String>::new(), "bans that were told");

    // All that was ever sent, again: what was lost on its way gets in now, for the first time; then nothing does.
    let mut told = granted(&last.log()).len();
    for round in ["lost", "none"] {
        fleet.knock_again();
        fleet.gets_in(&last);
        let again = granted(&last.log()).split_off(told);
        assert_eq!(again.iter().find(|pair| holders.contains(*pair)), None, "accepted twice");
        assert!(round == "lost" || again.len() == 1, "{again:?}");
        told += again.len();
    }
}

/// The address of an element of a set of doors, as nft lists it.
fn first_address(element: &str) -> String {
    let address =
        element.split(['"', ',', '[', ']', '{', '}', ' ', ':']).find(|word| word.contains('.'));
    address.unwrap_or_else(|| panic!("no address in {element}")).to_owned()
}
