//! The packages under test, twice: as they are, and as a newer version to upgrade to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::binaries::repository;

use crate::inside;

/// A version that dpkg takes for newer than any that Cargo.toml will name: only packages of this test have it.
pub(crate) const NEWER: &str = "999.0.0";
/// The packages' names.
pub(crate) const DAEMON: &str = "knockd-spa";
pub(crate) const CLIENT: &str = "knock-spa";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Current,
    Newer,
}

/// Both versions of both packages, in one folder that the machines see.
pub(crate) struct Packages;

impl Packages {
    /// Where they are, on this machine.
    pub(crate) fn folder() -> PathBuf {
        inside::cache().join("packages")
    }

    /// Builds them, by `make deb`.
    pub(crate) fn build() {
        let folder = Self::folder();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("make the packages' folder");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| repository().join("target"), |path| repository().join(path));
        for version in [None, Some(NEWER)] {
            println!(
                "==> make deb{}",
                version.map(|v| format!(" DEB_VERSION={v}")).unwrap_or_default()
            );
            let built = target.join("debian");
            let _ = fs::remove_dir_all(&built);
            let mut make = Command::new("make");
            make.current_dir(repository()).args(["--no-print-directory", "deb"]);
            make.args(version.map(|version| format!("DEB_VERSION={version}")));
            let status = make.status().expect("start `make`");
            assert!(status.success(), "`make deb` failed: {status}");
            for entry in fs::read_dir(&built).expect("list the packages") {
                let path = entry.expect("list the packages").path();
                if path.extension().is_some_and(|extension| extension == "deb") {
                    fs::copy(&path, folder.join(path.file_name().unwrap()))
                        .expect("copy a package");
                }
            }
        }
    }

    /// The file of a package, under `folder`.
    pub(crate) fn file(folder: &Path, name: &str, version: Version) -> String {
        let is_wanted = |file: &str| {
            file.starts_with(&format!("{name}_"))
                && file.contains(&format!("_{NEWER}")) == (version == Version::Newer)
        };
        let entries = fs::read_dir(Self::folder()).expect("list the packages");
        let mut files =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let file = files.find(|file| is_wanted(file));
        let file = file.unwrap_or_else(|| panic!("no package {name} {version:?} was built"));
        folder.join(file).to_str().unwrap().to_owned()
    }
}
