//! Devices by the thousand: their entries in clients.d, and their knocks, made beforehand.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Secret,
    Timestamp, UnicastAddress, seal,
};
use data_encoding::BASE64;
use e2e::wire::udp_packet;

use crate::rig::BROKER;

/// Where knocks go.
pub(crate) const KNOCK_PORT: u16 = 62201;
/// What is behind the door.
pub(crate) const SERVICE_PORT: u16 = 8883;
/// Where devices' packets come from.
const SOURCE_PORT: u16 = 40_000;
/// Entries in one file at most.
const IN_ONE_FILE: u32 = 100_000;

/// The secret of a device: different for each, and no secret at all.
fn secret(device: u32) -> [u8; 32] {
    let mut bytes = *b"....not a secret, for benchmarks";
    for (byte, of_device) in bytes.iter_mut().zip(device.to_be_bytes()) {
        *byte = of_device;
    }
    bytes
}

/// The key of a device as its profile has it.
pub(crate) fn key(device: u32) -> String {
    BASE64.encode(&secret(device))
}

/// Writes the entries of so many devices.
pub(crate) fn write_clients(folder: &Path, devices: u32) {
    fs::create_dir_all(folder).expect("make clients.d");
    for (number, first) in (0..devices).step_by(IN_ONE_FILE as usize).enumerate() {
        let path = folder.join(format!("fleet-{number:02}.toml"));
        let file = File::create(&path).expect("create a file of clients");
        file.set_permissions(fs::Permissions::from_mode(0o600)).expect("set a file's mode");
        let mut out = BufWriter::new(file);
        for device in first..devices.min(first + IN_ONE_FILE) {
            let key = key(device);
            writeln!(
                out,
                "[[client]]\nname = \"d{device:07}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n"
            )
            .expect("write clients");
        }
        out.flush().expect("write clients");
    }
}

/// The keys of a device.
pub(crate) fn keys(device: u32) -> ClientKeys {
    let secret = Secret::new(secret(device)).expect("not all bytes are the same");
    ClientKeys::derive(&secret, &Realm::default())
}

/// The tag that a device's packets of this time carry.
pub(crate) fn tag(device: u32, stamp: u64) -> [u8; 8] {
    *keys(device).tag(day(stamp)).as_bytes()
}

fn day(stamp: u64) -> Day {
    Day::of(Timestamp::from_millis(stamp)).expect("a day before the counters'")
}

/// A whole IP packet with a valid knock of a device, from this source and for it.
pub(crate) fn knock(keys: &ClientKeys, from: Ipv4Addr, stamp: u64) -> Vec<u8> {
    let address = UnicastAddress::try_from(IpAddr::V4(from)).expect("a client's address");
    let request = Request {
        timestamp: Timestamp::from_millis(stamp),
        address: ClientAddress::Literal(address),
        open_for: OpenFor::Default,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).expect("random bytes");
    let datagram = seal(keys, day(stamp), Nonce::from_random(nonce), &request);
    packet(from, &datagram)
}

/// A whole IP packet to the knock port.
pub(crate) fn packet(from: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let from = SocketAddr::new(IpAddr::V4(from), SOURCE_PORT);
    udp_packet(from, SocketAddr::new(IpAddr::V4(BROKER), KNOCK_PORT), payload)
}

/// The address of a device: 10.128.0.0 and on, more than 8 million.
pub(crate) fn address(device: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + device)
}
