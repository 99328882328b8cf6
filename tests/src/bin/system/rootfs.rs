//! A fresh Debian 12 root file system, made once by mmdebstrap and kept; each machine runs on a layer above it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::inside;

/// The Debian release.
const SUITE: &str = "bookworm";
/// What is installed in it: an ordinary small server with a broker, the firewalls that a host may have, and what the
/// packages under test depend on, so that apt needs no network.
const PACKAGES: &[&str] = &[
    "adduser",
    "ca-certificates",
    "dbus",
    "firewalld",
    "init-system-helpers",
    "iproute2",
    "iptables",
    "mosquitto",
    "mosquitto-clients",
    "nftables",
    "openssh-server",
    "openssl",
    "procps",
    "prometheus",
    "python3",
    "python3-apt",
    "systemd",
    "systemd-sysv",
    "ufw",
];

/// Debian's own package `knockd`, which ours takes the place of: its file in there, and what it depends on.
pub(crate) const OTHER: &str = "/srv/other/package.deb";
const OTHER_NEEDS: &[&str] = &["libpcap0.8", "logrotate", "lsb-base"];
const OTHER_HOOK: &str = r#"chroot "$1" sh -ec 'mkdir /srv/other; cd /srv/other; apt-get -q download knockd; mv knockd_*.deb package.deb'"#;

/// The kept root file system.
pub(crate) struct RootFs;

impl RootFs {
    /// Where it is: another list of packages is another folder.
    pub(crate) fn path() -> PathBuf {
        // FNV-1a: names a folder, and guards nothing.
        let text = format!("{SUITE} {} {OTHER_HOOK}", included());
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
        inside::cache().join(format!("{SUITE}-{hash:016x}"))
    }

    /// Makes it if it isn't there.
    pub(crate) fn ensure() {
        let path = Self::path();
        if path.is_dir() {
            println!("==> the root file system of an earlier run: {}", path.display());
            return;
        }
        println!("==> a root file system of {SUITE}, by mmdebstrap: about a minute");
        let start = Instant::now();
        let making = path.with_extension(format!("making-{}", std::process::id()));
        fs::create_dir_all(inside::cache()).expect("make a folder in target/");
        let made = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={}", included()))
            .arg(format!("--customize-hook={OTHER_HOOK}"))
            .arg(SUITE)
            .arg(&making)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .expect("start `mmdebstrap` (tests/system-setup.sh installs it)");
        if !made.success() {
            let _ = fs::remove_dir_all(&making);
            panic!("mmdebstrap failed: {made}");
        }
        // Whole, or not there.
        fs::rename(&making, &path).expect("put the root file system in its place");
        println!("    made in {} s", start.elapsed().as_secs());
    }
}

/// The packages that are installed in it.
fn included() -> String {
    [PACKAGES, OTHER_NEEDS].concat().join(",")
}
