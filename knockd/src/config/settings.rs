//! `knockd.toml`: everything but the clients.

use std::{
    env,
    ffi::OsString,
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    time::Duration,
};

use common::Realm;

use super::{
    allow::Allow,
    ban,
    duration::{self, Written},
    field::{Field, Key},
    keys::{
        ALLOW, BAN, CAPACITY, CLIENTS, CLOCK_SKEW, CONTROL, GRANT, GRANT_PER_CLIENT,
        MASTER_KEY_FILE, MAX, METRICS, OPEN_FOR, PER_CLIENT, PREFILTER, REALM, REPLAY, REPLY,
        REPLY_ENABLED, SESSIONS, STATE,
    },
    listen::Listen,
    metrics::Metrics,
    prefilter::Prefilter,
    section::Section,
    services,
    source::Wrong,
};
use crate::gate::policy::{ClockSkew, GrantPolicy, Policy, ReplayLimits, ReplyPolicy, Sessions};

/// The longest that a grant can be allowed to last.
const GRANT_LIMIT: Duration = Duration::from_hours(30 * 24);
/// The shortest time that a door can open for.
const GRANT_LEAST: Duration = Duration::from_secs(1);
/// The most addresses that one client can be allowed to hold doors for at once: a 256th of all grants.
const GRANT_PER_CLIENT_LIMIT: u32 = 4_096;
/// The most packets that can be remembered.
const REPLAY_LIMIT: u32 = 16_777_216;
/// The longest path of a Unix socket in bytes: sun_path without the zero byte at its end (unix(7)).
pub(super) const SOCKET_PATH_LIMIT: usize = 107;

/// What the configuration takes from the process' environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The folder that systemd has made for the daemon's state (systemd.exec(5), STATE_DIRECTORY).
    pub state_directory: Option<PathBuf>,
}

impl Environment {
    /// This process' own.
    #[must_use]
    pub fn of_process() -> Self {
        Self { state_directory: env::var_os("STATE_DIRECTORY").and_then(|it| first_path(&it)) }
    }
}

/// The first of a colon-separated list of paths.
fn first_path(list: &OsString) -> Option<PathBuf> {
    env::split_paths(list).next().filter(|path| !path.as_os_str().is_empty())
}

/// What `knockd.toml` says; each part is `None` if it is wrong.
pub(super) struct Settings {
    pub(super) listen: Option<Listen>,
    pub(super) state: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    pub(super) clients_dir: Option<PathBuf>,
    pub(super) master_key_file: Option<PathBuf>,
    pub(super) policy: Option<Policy>,
    pub(super) allow: Option<Allow>,
    pub(super) prefilter: Option<Prefilter>,
    pub(super) metrics: Option<Metrics>,
}

impl Settings {
    /// Nothing known but where the clients are, if that.
    pub(super) const fn unknown(clients_dir: Option<PathBuf>) -> Self {
        let (listen, state, control, policy, allow) = (None, None, None, None, None);
        let (prefilter, metrics, master_key_file) = (None, None, None);
        Self {
            listen,
            state,
            control,
            clients_dir,
            master_key_file,
            policy,
            allow,
            prefilter,
            metrics,
        }
    }

    /// Reads them. Paths are relative to the folder that the file is in.
    pub(super) fn read(
        section: &mut Section<'_, '_, '_>,
        folder: &Path,
        environment: &Environment,
    ) -> Self {
        let default_state =
            environment.state_directory.clone().unwrap_or_else(|| "/var/lib/knockd".into());
        let listen = Listen::read(section);
        let allow = section.table(ALLOW, Allow::read).flatten();
        Self {
            state: path(section, &STATE, folder, default_state),
            control: path(section, &CONTROL, folder, "/run/knockd/control.sock".into())
                .and_then(|path| socket_path(section, path)),
            clients_dir: path(section, &CLIENTS, folder, folder.join("clients.d")),
            master_key_file: path(
                section,
                &MASTER_KEY_FILE,
                folder,
                folder.join(super::MASTER_KEY),
            ),
            policy: policy(section, listen.as_ref().map(Listen::port), allow.as_ref()),
            allow,
            prefilter: section.table(PREFILTER, Prefilter::read).flatten(),
            metrics: section.table(METRICS, Metrics::read).flatten(),
            listen,
        }
    }
}

fn path(
    section: &mut Section<'_, '_, '_>,
    key: &Key,
    folder: &Path,
    default: PathBuf,
) -> Option<PathBuf> {
    let field = section.text(key, |text| match text {
        "" => Err(Wrong::new("is empty")),
        text if text.contains('\0') => Err(Wrong::new("has a zero byte in it")),
        text => Ok(folder.join(text)),
    });
    field.or(default).map(|path| path.value)
}

fn socket_path(section: &mut Section<'_, '_, '_>, path: PathBuf) -> Option<PathBuf> {
    if path.as_os_str().len() <= SOCKET_PATH_LIMIT {
        return Some(path);
    }
    let what =
        format!("is longer than the {SOCKET_PATH_LIMIT} bytes that a socket's path can have");
    let at = section.place_of(&CONTROL);
    section.wrong(&CONTROL, at, Wrong::new(what));
    None
}

fn policy(
    section: &mut Section<'_, '_, '_>,
    knock_port: Option<NonZeroU16>,
    allow: Option<&Allow>,
) -> Option<Policy> {
    let realm = section.text(&REALM, |text| {
        Realm::new(text)
            .map_err(|error| Wrong::new(format!("is nothing that a realm can be: {error}")))
    });
    let clock_skew = section.text(&CLOCK_SKEW, |text| {
        let skew = duration_or_wrong(text)?;
        ClockSkew::try_from(skew).map_err(|_| {
            Wrong::with(
                format!("is {}", Written(skew)),
                format!("write a duration from 1ms to {}", Written(ClockSkew::MAX)),
            )
        })
    });
    let default_skew = ClockSkew::try_from(Duration::from_secs(30)).ok();
    let clock_skew = match clock_skew {
        Field::Absent => default_skew,
        Field::Wrong => None,
        Field::Is(skew) => Some(skew.value),
    };
    let services = services::read(section, knock_port);
    let grant = section.table(GRANT, grant).flatten();
    let ban = section.table(BAN, ban::read).flatten().map(|mut ban| {
        // Who needs no knock can't be shut out by knocks that are forged in his name.
        ban.never.extend(allow.iter().flat_map(|allow| allow.networks.iter().copied()));
        ban
    });
    let replay = section.table(REPLAY, replay).flatten();
    let reply = section.table(REPLY, reply).flatten();
    Some(Policy {
        realm: realm.or(Realm::default())?.value,
        clock_skew: clock_skew?,
        grant: grant?,
        ban: ban?,
        services: services?,
        replay: replay?,
        reply: reply?,
    })
}

pub(super) fn duration_or_wrong(text: &str) -> Result<Duration, Wrong> {
    duration::parse(text).map_err(|error| Wrong::new(format!("is no duration: {error}")))
}

fn grant(table: &mut Section<'_, '_, '_>) -> Option<GrantPolicy> {
    let open_for = table.text(&OPEN_FOR, |text| {
        let open_for = duration_or_wrong(text)?;
        match open_for {
            _ if open_for < GRANT_LEAST => Err(Wrong::with(
                format!(
                    "is {}, and no door opens for less than {}",
                    Written(open_for),
                    Written(GRANT_LEAST)
                ),
                "write \"30s\"",
            )),
            _ => Ok(open_for),
        }
    });
    let max = table.text(&MAX, |text| {
        let max = duration_or_wrong(text)?;
        match max {
            _ if max < GRANT_LEAST || max > GRANT_LIMIT => {
                let (least, limit) = (Written(GRANT_LEAST), Written(GRANT_LIMIT));
                let what = format!("is {}, which is not from {least} to {limit}", Written(max));
                Err(Wrong::new(what))
            }
            _ => Ok(max),
        }
    });
    let sessions = table.text(&SESSIONS, |text| match text {
        "keep" => Ok(Sessions::Keep),
        "cut" => Ok(Sessions::Cut),
        _ => Err(Wrong::new("is neither keep nor cut")),
    });
    let sessions = sessions.or(Sessions::Keep);
    let per_client = table.number(&GRANT_PER_CLIENT, 1, GRANT_PER_CLIENT_LIMIT).or(64);
    let at = table.place_of(&OPEN_FOR);
    let (open_for, max) =
        (open_for.or(Duration::from_secs(30))?.value, max.or(Duration::from_hours(1))?.value);
    if open_for > max {
        let (is, most) = (Written(open_for), Written(max));
        let what = format!("is {is}, which is longer than grant.max, {most}");
        let instead = format!("write at most open-for = \"{most}\", or a longer max");
        table.wrong(&OPEN_FOR, at, Wrong::with(what, instead));
        return None;
    }
    let per_client = NonZeroU32::new(per_client?.value)?;
    Some(GrantPolicy { open_for, max, per_client, sessions: sessions?.value })
}

fn reply(table: &mut Section<'_, '_, '_>) -> Option<ReplyPolicy> {
    Some(match table.boolean(&REPLY_ENABLED).or(false)?.value {
        true => ReplyPolicy::On,
        false => ReplyPolicy::Off,
    })
}

fn replay(table: &mut Section<'_, '_, '_>) -> Option<ReplayLimits> {
    let capacity = table.number(&CAPACITY, 1, REPLAY_LIMIT);
    let per_client = table.number(&PER_CLIENT, 1, REPLAY_LIMIT);
    let at = table.place_of(&PER_CLIENT);
    let (capacity, per_client) = (capacity.or(1_048_576)?.value, per_client.or(131_072)?.value);
    if per_client > capacity {
        let what = format!("is {per_client}, which is more than replay.capacity, {capacity}");
        let instead = format!("write at most per-client = {capacity}, or a larger capacity");
        table.wrong(&PER_CLIENT, at, Wrong::with(what, instead));
        return None;
    }
    Some(ReplayLimits { capacity, per_client })
}
