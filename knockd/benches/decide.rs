//! `cargo bench -p knockd`: what a decision costs, by how far a packet gets.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod rig;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rig::{Packets, decide, gate};

fn refused(criterion: &mut Criterion) {
    let mut packets = Packets::new();
    let genuine = packets.next();
    let mut unknown_tag = genuine;
    unknown_tag[0] ^= 1;
    let mut bad_mac = genuine;
    bad_mac[115] ^= 1;
    for clients in [1, 100_000] {
        let mut gate = gate(clients);
        let _ = decide(&mut gate, &genuine);
        for (name, datagram) in [
            ("malformed", &genuine[..115]),
            ("unknown-tag", unknown_tag.as_slice()),
            ("bad-mac", bad_mac.as_slice()),
            ("replayed", genuine.as_slice()),
        ] {
            criterion.bench_function(&format!("decide/{name}/{clients} clients"), |bencher| {
                bencher.iter(|| decide(&mut gate, datagram));
            });
        }
    }
}

fn granted(criterion: &mut Criterion) {
    for clients in [1, 100_000] {
        let mut gate = gate(clients);
        let mut packets = Packets::new();
        criterion.bench_function(&format!("decide/granted/{clients} clients"), |bencher| {
            bencher.iter_batched(
                || packets.next(),
                |datagram| decide(&mut gate, &datagram),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, refused, granted);
criterion_main!(benches);
