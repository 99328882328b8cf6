//! The foreign client, `foreign/knock.py`: another implementation of the protocol.

use std::net::SocketAddr;

use crate::binaries;
use crate::door::{Device, KNOCK_PORT};
use crate::process::Output;
use crate::world::Host;

/// The foreign client on a host.
#[derive(Debug, Clone, Copy)]
pub struct Foreign<'w>(pub Host<'w>);

impl Foreign<'_> {
    /// Runs it with these arguments.
    pub fn run(self, args: &[&str]) -> Output {
        let script = binaries::repository().join("tests/foreign/knock.py");
        let script = script.to_str().expect("a path in UTF-8");
        let argv: Vec<&str> = ["python3", script].iter().chain(args).copied().collect();
        self.0.run(&argv)
    }

    /// What a reply to a request says, both in hex, by `foreign/reply.py`.
    #[track_caller]
    pub fn reads(self, device: &Device<'_>, request: &str, reply: &str) -> serde_json::Value {
        let script = binaries::repository().join("tests/foreign/reply.py");
        let script = script.to_str().expect("a path in UTF-8");
        let key = device.key();
        let argv = ["python3", script, "--key", &key, "--request", request, "--open", reply];
        // It leaves nothing behind in the repository.
        self.0.run_with(&argv, &[("PYTHONDONTWRITEBYTECODE", "1")], "").success().json()
    }

    /// Makes a datagram with the device's key for this host's IPv4 address, and returns it in hex.
    #[track_caller]
    pub fn datagram(self, device: &Device<'_>, args: &[&str]) -> String {
        let (key, address) = (device.key(), self.0.v4().to_string());
        let own = ["--hex", "--key", &key, "--service", "mqtts", "--address", &address];
        // Later ones win: a test may say otherwise.
        self.run(&[&own, args].concat()).success().stdout.trim().to_owned()
    }

    /// Makes a datagram as [`Self::datagram`] does, and sends it to the broker's host.
    #[track_caller]
    pub fn knock(self, device: &Device<'_>, args: &[&str]) {
        let to = SocketAddr::new(self.0.world().broker().v4(), KNOCK_PORT).to_string();
        self.datagram(device, &[args, &["--to", &to]].concat());
    }
}
