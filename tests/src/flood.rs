//! The attacker with a raw socket, `packet flood`: datagrams of a knock's length at line rate, in whose name he likes.

use std::net::{IpAddr, SocketAddr};

use crate::binaries;
use crate::door::KNOCK_PORT;
use crate::process::Process;
use crate::world::World;

/// A flood from the attacker's host to the broker's knock port, which ends when this is dropped, or after a
/// minute.
#[derive(Debug)]
pub struct Flood(Process);

impl Flood {
    /// Floods over IPv4; `args` are those of `packet flood`, but for where it goes.
    #[track_caller]
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self::at(world, world.broker().v4(), args)
    }

    /// Floods this address of the broker's host.
    #[track_caller]
    pub fn at(world: &World, to: IpAddr, args: &[&str]) -> Self {
        let (packet, to) = (binaries::path("packet"), SocketAddr::new(to, KNOCK_PORT).to_string());
        let argv = [&[packet.as_str(), "flood", "--to", &to], args].concat();
        let mut process = world.attacker().spawn(&argv, &[]);
        process.wait_for("flooding");
        Self(process)
    }

    /// Waits until all of it is sent; returns how many packets that were.
    #[track_caller]
    pub fn sent(mut self) -> u64 {
        self.0.wait_for("sent ");
        let said = self.0.stdout();
        let number = said.split("sent ").nth(1).and_then(|said| said.split(' ').next());
        number.and_then(|number| number.parse().ok()).expect("a number of packets")
    }

    /// Whether it goes on.
    pub fn goes_on(&mut self) -> bool {
        self.0.is_running()
    }
}

/// Sends so many random datagrams of a knock's length in this address' name, and waits until they are out.
#[track_caller]
pub fn forge(world: &World, from: IpAddr, count: u32) {
    forge_with(world, from, "", count);
}

/// As [`forge`]; each payload begins with these bytes, in hex.
#[track_caller]
pub fn forge_with(world: &World, from: IpAddr, begins: &str, count: u32) {
    let to = if from.is_ipv4() { world.broker().v4() } else { world.broker().v6() };
    let (from, count) = (from.to_string(), count.to_string());
    let args = ["--from", &from, "--begins", begins, "--count", &count];
    Flood::at(world, to, &args).sent();
}
