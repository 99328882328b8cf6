//! A device's `knock.toml`, and `knock` with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::door::write_private;

use crate::fleet::{self, KNOCK_PORT, SERVICE_PORT};
use crate::rig::BROKER;

/// Writes the profile of a device, with the broker's literal address.
pub(crate) fn write(folder: &Path, device: u32) -> PathBuf {
    let path = fs::canonicalize(folder).expect("a folder").join("knock.toml");
    let text = format!(
        "[broker]\nserver = \"{BROKER}:{KNOCK_PORT}\"\nkey = \"{}\"\nservice = \"mqtts\"\n\
         port = \"tcp/{SERVICE_PORT}\"\n",
        fleet::key(device)
    );
    write_private(&path, &text);
    path
}

/// `knock` with this profile.
pub(crate) fn command(program: &Path, profile: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(profile).args(options);
    command
}
