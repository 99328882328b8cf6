//! fwknop from Debian: the default, which captures packets by libpcap, and its UDP server mode.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use data_encoding::BASE64;
use e2e::door::write_private;
use tempfile::TempDir;

use super::Peer;
use crate::fleet::{KNOCK_PORT, SERVICE_PORT, address};
use crate::rig::{BROKER, DAEMON_CORE, Side};
use crate::running::Running;

/// How fwknopd receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pcap,
    UdpServer,
}

/// Its keys: for encryption and for the HMAC.
fn keys() -> [String; 2] {
    [BASE64.encode(&[7; 32]), BASE64.encode(&[9; 64])]
}

/// Starts fwknopd behind a firewall that drops what it doesn't let in.
pub(crate) fn start(mode: Mode) -> Peer {
    let dir = TempDir::with_prefix("knock-bench-").expect("make a temporary directory");
    for rule in [
        &["-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"][..],
        &["-A", "INPUT", "-p", "tcp", "--dport", &SERVICE_PORT.to_string(), "-j", "DROP"],
    ] {
        Side::Broker.run("iptables", rule, "").success();
    }
    let [key, hmac] = keys();
    let access = dir.path().join("access.conf");
    let text = format!(
        "SOURCE ANY\nREQUIRE_SOURCE_ADDRESS Y\nKEY_BASE64 {key}\nHMAC_KEY_BASE64 {hmac}\n\
         FW_ACCESS_TIMEOUT 90\n"
    );
    write_private(&access, &text);
    let config = dir.path().join("fwknopd.conf");
    let udp = if mode == Mode::UdpServer { "Y" } else { "N" };
    let text = format!(
        "PCAP_INTF eth0;\nENABLE_UDP_SERVER {udp};\nUDPSERV_PORT {KNOCK_PORT};\n\
         FWKNOP_RUN_DIR {};\n",
        dir.path().display()
    );
    write_private(&config, &text);
    let mut command = Command::new("/usr/sbin/fwknopd");
    command.arg("-f").arg("-c").arg(&config).arg("-a").arg(&access);
    let log = dir.path().join("fwknopd.log");
    let daemon = Running::start(Side::Broker, Some(DAEMON_CORE), command, &log);
    // It says nothing when it is ready.
    sleep(Duration::from_millis(1_500));
    Peer {
        name: match mode {
            Mode::Pcap => "fwknop (pcap)",
            Mode::UdpServer => "fwknop (UDP server)",
        },
        daemons: vec![daemon],
        client: Box::new(|from| client(&from.to_string())),
        _dir: dir,
    }
}

fn client(from: &str) -> Command {
    let [key, hmac] = keys();
    let mut command = Command::new("fwknop");
    command
        .env("HOME", "/nonexistent")
        .args(["--no-rc-file", "--no-save-args", "--use-hmac", "-a", from])
        .args(["-A", &format!("tcp/{SERVICE_PORT}"), "-D", &BROKER.to_string()])
        .args(["--server-port", &KNOCK_PORT.to_string()])
        .args(["--key-base64-rijndael", &key, "--key-base64-hmac", &hmac]);
    command
}

/// The payloads of so many knocks, each of another device; they stay fresh for two minutes.
pub(crate) fn knocks(count: u32) -> Vec<Vec<u8>> {
    let dir = TempDir::with_prefix("knock-bench-").expect("make a temporary directory");
    let make = |device: u32| {
        let path = dir.path().join("packet");
        let mut command = client(&address(device).to_string());
        command.args(["--test", "--save-packet"]).arg(&path);
        let made = command.output().expect("run fwknop");
        assert!(made.status.success(), "fwknop makes no packet: {made:?}");
        payload(&path)
    };
    (0..count).map(make).collect()
}

fn payload(path: &Path) -> Vec<u8> {
    let text = fs::read_to_string(path).expect("read fwknop's packet");
    fs::remove_file(path).expect("remove fwknop's packet");
    text.trim_end().as_bytes().to_vec()
}

/// How many doors are open.
pub(crate) fn open_doors() -> usize {
    let rules = Side::Broker.run("iptables", &["-S", "FWKNOP_INPUT"], "").success().stdout;
    rules.lines().filter(|line| line.starts_with("-A")).count()
}
