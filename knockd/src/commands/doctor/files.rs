//! Who can read and write what knockd keeps: beyond the files of the configuration, which are judged whenever they
//! are read.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::unistd::{Group, User};

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};
use crate::config::{Config, quoted};

/// The user that the daemon runs as where it is installed so.
const USER: &str = "knockd";
/// The group whose members may ask the daemon.
const GROUP: &str = "knockd";
/// The group that may read clients' keys.
const KEYS_GROUP: &str = "knockd-keys";

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let config = examined.config()?;
    let runner = Runner::of(examined);
    state(config, runner.as_ref(), findings)?;
    control(config, findings)?;
    if let Some(runner) = &runner {
        clients(config, runner, findings)?;
    }
    Ok(())
}

/// Whom the daemon runs as.
struct Runner {
    uid: u32,
    groups: Vec<u32>,
}

impl Runner {
    /// As the running daemon is; if none runs, as its user, if there is one.
    fn of(examined: &Examined) -> Option<Self> {
        match examined.status() {
            Ok(Some(status)) => Self::of_process(status.pid),
            _ => Self::of_user(),
        }
    }

    /// /proc/PID/status (proc(5)): the effective ids.
    fn of_process(pid: u32) -> Option<Self> {
        // Seen from another process namespace, that number is somebody else's.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if name.trim() != env!("CARGO_PKG_NAME") {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let effective = |line: &str| line.split_whitespace().nth(1)?.parse::<u32>().ok();
        let more = line("Groups:").unwrap_or_default().split_whitespace();
        let groups = more.filter_map(|group| group.parse().ok()).chain(effective(line("Gid:")?));
        Some(Self { uid: effective(line("Uid:")?)?, groups: groups.collect() })
    }

    fn of_user() -> Option<Self> {
        let user = User::from_name(USER).ok()??;
        let keys = Group::from_name(KEYS_GROUP).ok().flatten();
        let groups = [user.gid].into_iter().chain(keys.map(|group| group.gid));
        Some(Self {
            uid: user.uid.as_raw(),
            groups: groups.map(nix::unistd::Gid::as_raw).collect(),
        })
    }

    fn may(&self, metadata: &fs::Metadata, bit: u32) -> bool {
        let shift = if self.uid == 0 {
            return true;
        } else if metadata.uid() == self.uid {
            6
        } else if self.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        };
        metadata.mode() >> shift & bit != 0
    }
}

/// The state folder: whoever writes there can let himself in, or an old packet.
fn state(
    config: &Config,
    runner: Option<&Runner>,
    findings: &mut Findings<'_>,
) -> Result<(), Unable> {
    let Some(metadata) = look(&config.state)? else { return Ok(()) };
    let name = quoted(&config.state);
    if metadata.mode() & 0o022 != 0 {
        findings.add(
            Finding::fault("state-exposed", format!("others can write to the state folder (mode {:04o}): whoever does can have an old packet accepted again", metadata.mode() & 0o7777))
                .at(config.state.display().to_string())
                .mend(format!("chmod 0700 {name}")),
        );
    }
    if let Some(runner) = runner.filter(|runner| !runner.may(&metadata, 0o2)) {
        findings.add(
            Finding::fault("state-unwritable", format!("the daemon (user {}) may not write to its state folder: it refuses every knock that it can't write down", runner.uid))
                .at(config.state.display().to_string())
                .mend(format!("chown -R {} {name}", runner.uid)),
        );
    }
    let entries = match fs::read_dir(&config.state) {
        Ok(entries) => entries,
        // What others can do in a folder that they can't enter doesn't matter.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // A link of the daemon's user may lead anywhere: what it leads to is none of the folder's.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() && metadata.mode() & 0o022 != 0 {
            findings.add(
                Finding::fault(
                    "state-exposed",
                    format!("others can write to it (mode {:04o})", metadata.mode() & 0o7777),
                )
                .at(path.display().to_string())
                .mend(format!("chmod 0600 {}", quoted(&path))),
            );
        }
    }
    Ok(())
}

/// The control socket: whoever connects can ban and let go.
fn control(config: &Config, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let Some(metadata) = look(&config.control)? else { return Ok(()) };
    let (place, name) = (config.control.display().to_string(), quoted(&config.control));
    if !metadata.file_type().is_socket() {
        findings.add(
            Finding::fault(
                "control-no-socket",
                "what is there in place of the control socket is none",
            )
            .at(place)
            .mend(format!("move {name} away, and: systemctl restart knockd")),
        );
        return Ok(());
    }
    if metadata.mode() & 0o007 != 0 {
        findings.add(
            Finding::fault(
                "control-exposed",
                format!(
                    "everybody on this host can ask the daemon, to ban for example (mode {:04o})",
                    metadata.mode() & 0o7777
                ),
            )
            .at(place.clone())
            .mend(format!("chmod 0660 {name}")),
        );
    }
    let group = Group::from_name(GROUP).ok().flatten();
    let own = [Some(0), group.as_ref().map(|group| group.gid.as_raw())];
    if metadata.mode() & 0o060 != 0
        && !own.contains(&Some(metadata.gid()))
        && metadata.gid() != nix::unistd::getegid().as_raw()
    {
        findings.add(
            Finding::warning(
                "control-group",
                format!(
                    "members of the group {} may ask the daemon, and not those of {GROUP}",
                    metadata.gid()
                ),
            )
            .at(place)
            .mend(format!("chgrp {GROUP} {name}")),
        );
    }
    Ok(())
}

/// The clients' files: the daemon has to read them, at each reload.
fn clients(config: &Config, runner: &Runner, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let Some(folder) = look(&config.clients_dir)? else { return Ok(()) };
    let mut unreadable = Vec::new();
    if !runner.may(&folder, 0o5) {
        unreadable.push((config.clients_dir.clone(), "2750"));
    }
    for entry in fs::read_dir(&config.clients_dir)?.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if let Some(metadata) = look(&path)?
            && !runner.may(&metadata, 0o4)
        {
            unreadable.push((path, "0640"));
        }
    }
    for (path, mode) in unreadable {
        let name = quoted(&path);
        findings.add(
            Finding::fault(
                "clients-unreadable",
                format!(
                    "the daemon (user {}) may not read it: the next start or reload fails",
                    runner.uid
                ),
            )
            .at(path.display().to_string())
            .mend(format!("chgrp {KEYS_GROUP} {name} && chmod {mode} {name}")),
        );
    }
    Ok(())
}

/// What is there under a name; `None` if nothing is.
fn look(path: &Path) -> Result<Option<fs::Metadata>, Unable> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unable::of_denied(
            error.kind() == ErrorKind::PermissionDenied,
            format!("{}: {error}", path.display()),
        )),
    }
}
