//! The programs that are measured, in their release builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::binaries::repository;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Where they are.
pub(crate) struct Programs {
    pub(crate) knockd: PathBuf,
    pub(crate) knock: PathBuf,
    pub(crate) knock_static: PathBuf,
    pub(crate) bare: PathBuf,
    /// The folder with letmein's programs.
    pub(crate) peers: PathBuf,
}

impl Programs {
    /// Builds what isn't built; the first time that takes some minutes.
    pub(crate) fn build() -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| repository().join("target"), PathBuf::from);
        let for_static = target.join("static");
        cargo(&["build", "--quiet", "--release", "--package", "knockd"], "", &target);
        let client = ["build", "--quiet", "--profile", "client", "--package", "knock"];
        cargo(&client, "", &target);
        let flags = "-C target-feature=+crt-static";
        cargo(&[&client[..], &["--target", TRIPLE]].concat(), flags, &for_static);
        let (knock, knock_static) =
            (target.join("client/knock"), for_static.join(TRIPLE).join("client/knock"));
        for client in [&knock, &knock_static] {
            let shrink = Command::new(repository().join("knock/shrink.sh")).arg(client).status();
            assert!(shrink.is_ok_and(|status| status.success()), "shrink.sh fails");
        }
        let bare = target.join("bare");
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "panic=abort"])
            .args(["-C", "opt-level=3", "-C", "lto=fat", "-C", "strip=symbols", "-o"])
            .arg(&bare)
            .arg(repository().join("tests/src/bin/bare.rs"))
            .status();
        assert!(status.is_ok_and(|status| status.success()), "bare.rs doesn't build");
        Self {
            knockd: target.join("release/knockd"),
            knock,
            knock_static,
            bare,
            peers: repository().join("target/peers/bin"),
        }
    }
}

fn cargo(args: &[&str], flags: &str, target: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(args).env("CARGO_TARGET_DIR", target);
    if !flags.is_empty() {
        command.env("RUSTFLAGS", flags);
    }
    let status = command.status().expect("start cargo");
    assert!(status.success(), "cargo {} fails", args.join(" "));
}
