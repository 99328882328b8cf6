//! The programs that are measured, in their release builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::binaries::repository;

/// Where they are.
pub(crate) struct Programs {
    pub(crate) knockd: PathBuf,
    pub(crate) knock: PathBuf,
    pub(crate) knock_static: PathBuf,
    pub(crate) bare: PathBuf,
    /// The folder with letmein's programs.
    pub(crate) peers: PathBuf,
}

/// Which of them are to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// The daemon.
    Daemon,
    /// The clients as well.
    All,
}

impl Programs {
    /// Builds what is needed and isn't built, but for a daemon that is given; the first time that takes some minutes.
    pub(crate) fn build(needed: Needed, knockd: Option<PathBuf>) -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| repository().join("target"), PathBuf::from);
        let knockd = knockd.unwrap_or_else(|| {
            cargo(&["build", "--quiet", "--release", "--package", "knockd"], &target);
            target.join("release/knockd")
        });
        let (knock, knock_static) = (target.join("client/knock"), target.join("static/knock"));
        let bare = target.join("bare");
        if needed == Needed::All {
            build_clients(&target, &bare);
        }
        Self { knockd, knock, knock_static, bare, peers: repository().join("target/peers/bin") }
    }
}

/// The client, in its two kinds, and the program that does nothing.
fn build_clients(target: &Path, bare: &Path) {
    for kind in [&[][..], &["static"]] {
        let status = Command::new(repository().join("knock/build.sh"))
            .args(kind)
            .env("CARGO_TARGET_DIR", target)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "build.sh fails");
    }
    let status = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "panic=abort"])
        .args(["-C", "opt-level=3", "-C", "lto=fat", "-C", "strip=symbols", "-o"])
        .arg(bare)
        .arg(repository().join("tests/src/bin/bare.rs"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "bare.rs doesn't build");
}

fn cargo(args: &[&str], target: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(args).env("CARGO_TARGET_DIR", target);
    let status = command.status().expect("start cargo");
    assert!(status.success(), "cargo {} fails", args.join(" "));
}
