//! `decide CASE COUNT`: makes so many decisions of one kind, for callgrind to count instructions of.
//! `make callgrind` subtracts a run of none from a run of many.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that goes wrong ends with a panic"
)]

#[path = "../benches/rig/mod.rs"]
mod rig;

use rig::{Packets, decide, gate};

fn main() {
    let mut args = std::env::args().skip(1);
    let (case, count) = (args.next().unwrap(), args.next().unwrap().parse::<usize>().unwrap());
    let (mut gate, mut packets) = (gate(1_000), Packets::new());
    let genuine = packets.next();
    let _ = decide(&mut gate, &genuine);
    // Made in every case, so that making them is the same in every run.
    let fresh: Vec<_> = (0..1_000).map(|_| packets.next()).collect();
    let mut changed = genuine;
    match case.as_str() {
        "unknown-tag" => changed[0] ^= 1,
        "bad-mac" => changed[115] ^= 1,
        "replayed" | "granted" => {}
        _ => panic!("unknown-tag, bad-mac, replayed or granted"),
    }
    for datagram in fresh.iter().take(count) {
        let _ = decide(&mut gate, if case == "granted" { datagram } else { &changed });
    }
}
