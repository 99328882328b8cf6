//! Keys in the daemon's memory: those of who is gone are gone.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use common::{ClientKeys, Realm, Secret};
use data_encoding::BASE64;
use e2e::door::write_private;
use e2e::{Daemon, Door, Settings, World, until};

/// Clients that are there from the first, and removed.
const REMOVED: u16 = 200;
/// Clients that are added meanwhile, and stay.
const ADDED: u16 = 300;

fn secret(number: u16) -> [u8; 32] {
    let mut secret = *b"..a key of a test, found by look";
    secret[..2].copy_from_slice(&number.to_be_bytes());
    secret
}

/// The entries of these clients.
fn entries(numbers: std::ops::Range<u16>) -> String {
    let mut text = String::new();
    for number in numbers {
        let key = BASE64.encode(&secret(number));
        let entry = format!("name = \"c{number}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]");
        writeln!(text, "[[client]]\n{entry}\n").expect("write an entry");
    }
    text
}

/// Eight bytes of each thing that must not be found, and what it is.
fn needles(numbers: impl Iterator<Item = u16>) -> HashMap<[u8; 8], String> {
    let mut needles = HashMap::new();
    for number in numbers {
        let bytes = secret(number);
        let keys = ClientKeys::derive(&Secret::new(bytes).expect("a secret"), &Realm::default());
        let [tag, seal, mac] = keys.expose_for_vectors();
        let text = BASE64.encode(&bytes);
        let things = [("tag", &tag[..]), ("seal", seal), ("mac", mac), ("secret", &bytes)];
        // Behind what is alike in all of them.
        let things = things.into_iter().chain([("text", &text.as_bytes()[..8])]);
        for (name, thing) in things {
            let needle = *thing.first_chunk().expect("8 bytes");
            needles.insert(needle, format!("{name} of c{number}"));
        }
    }
    needles
}

/// What of this is in the daemon's memory.
fn found(daemon: &Daemon, needles: &HashMap<[u8; 8], String>) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.id())).expect("read the map");
    let memory = File::open(format!("/proc/{}/mem", daemon.id())).expect("open the memory");
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, rest) = line.split_once('-').expect("a range");
        let end = rest.split(' ').next().expect("its end");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("a number"));
        let mut bytes = vec![0; usize::try_from(end - start).expect("it fits")];
        // What isn't readable, as a guard page, holds nothing.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        looked_at += bytes.len();
        let windows = bytes.windows(8).filter_map(|window| needles.get(window));
        found.extend(windows.cloned());
    }
    assert!(looked_at > 1 << 20, "{looked_at} bytes");
    found.sort();
    found
}

#[test]
fn no_key_of_a_client_that_was_removed_is_in_the_daemons_memory() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let file = |name: &str| door.clients().join(name);
    write_private(&file("first.toml"), &entries(0..REMOVED));
    write_private(&file("last.toml"), &entries(REMOVED..REMOVED + 1));
    let daemon = door.start();
    let reloaded = |times: usize| {
        daemon.reload();
        until("it is in force", || daemon.log().matches("event=\"reloaded\"").count() == times);
    };
    let gone = needles(0..REMOVED);
    // They are found while they are there: what is looked for is right.
    assert!(found(&daemon, &gone).len() >= usize::from(REMOVED));
    write_private(&file("more.toml"), &entries(REMOVED + 1..REMOVED + 1 + ADDED));
    reloaded(1);
    fs::remove_file(file("first.toml")).expect("remove a file");
    reloaded(2);
    assert_eq!(found(&daemon, &gone), Vec::<String>::new());
    // Nor of one whose key was replaced.
    let replaced = entries(0..1).replace("c0", &format!("c{REMOVED}"));
    write_private(&file("last.toml"), &replaced);
    reloaded(3);
    assert_eq!(found(&daemon, &needles(REMOVED..REMOVED + 1)), Vec::<String>::new());
}
