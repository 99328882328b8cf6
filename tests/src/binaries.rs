//! The programs under test, built once per test program so that they are never stale.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// The path of a program of this workspace: `knockd`, `knock`, `packet` or `manager`.
pub fn path(name: &str) -> String {
    let path = built().join(name);
    assert!(path.is_file(), "{} was built but isn't there", path.display());
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Builds all of them, into the folder that the running program itself is from.
fn built() -> &'static Path {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let own = std::env::current_exe().expect("own path");
        let mut folder = own.parent().expect("a program is in a folder");
        if folder.ends_with("deps") {
            folder = folder.parent().expect("deps/ has a parent");
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(repository())
            .args(["build", "--quiet", "--package", "knockd", "--package", "knock"])
            // A named program leaves out all that aren't named.
            .args(["--package", "e2e", "--bin", "knockd", "--bin", "knock", "--bin", "packet"])
            .args(["--bin", "manager"])
            .arg("--target-dir")
            .arg(folder.parent().expect("a profile's folder has a parent"));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("start cargo");
        status.success().then(|| folder.to_owned())
    });
    built.as_deref().expect("the programs under test don't build")
}
