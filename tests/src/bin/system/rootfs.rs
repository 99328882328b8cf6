//! Fresh Debian root file systems, one for each release, made once by mmdebstrap and kept; each machine runs on a layer
//! above one of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::inside;

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12, on which the packages are built.
    Bookworm,
    /// Debian 13.
    Trixie,
}

/// What is installed in each: an ordinary small server with a broker, the firewalls that a host may have, and what the
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
/// And in Debian 13, where the scenes with a container engine and with Debian's own knockd play.
const PACKAGES_13: &[&str] = &[
    "busybox-static",
    "docker-cli",
    "docker.io",
    "libpcap0.8t64",
    "logrotate",
    "systemd-timesyncd",
];

/// Debian's own package `knockd`, which ours takes the place of: its file in there.
pub(crate) const OTHER: &str = "/srv/other/package.deb";
const OTHER_HOOK: &str = r#"chroot "$1" sh -ec 'mkdir /srv/other; cd /srv/other; apt-get -q download knockd; mv knockd_*.deb package.deb'"#;

impl Release {
    pub(crate) const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// Its code name.
    const fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Its name and number.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "Debian 12",
            Self::Trixie => "Debian 13",
        }
    }

    /// Where its root file system is kept: another list of packages is another folder.
    pub(crate) fn path(self) -> PathBuf {
        // FNV-1a: names a folder, and guards nothing.
        let text = format!("{} {} {OTHER_HOOK}", self.suite(), self.included());
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
        inside::cache().join(format!("{}-{hash:016x}", self.suite()))
    }

    /// Makes the root file system if it isn't there.
    pub(crate) fn ensure(self) {
        let path = self.path();
        if path.is_dir() {
            println!("==> the root file system of an earlier run: {}", path.display());
            return;
        }
        println!("==> a root file system of {}, by mmdebstrap: about a minute", self.name());
        let start = Instant::now();
        let making = path.with_extension(format!("making-{}", std::process::id()));
        fs::create_dir_all(inside::cache()).expect("make a folder in target/");
        let made = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={}", self.included()))
            .arg(format!("--customize-hook={OTHER_HOOK}"))
            .arg(self.suite())
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

    /// The packages that are installed in it.
    fn included(self) -> String {
        match self {
            Self::Bookworm => PACKAGES.join(","),
            Self::Trixie => [PACKAGES, PACKAGES_13].concat().join(","),
        }
    }
}
