//! What is to be done: the command line over the profile, checked as far as it goes without a network.
//!
//! # Security considerations
//! The secret lives only until the packet's keys are derived from it; both are wiped when dropped.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use common::{Action, ClientKeys, OpenFor, Realm, ReplyWanted, Secret, ServiceName};

use crate::{
    cli::{Args, Repeat},
    counter::CounterFile,
    duration::{Seconds, Span},
    endpoint::{AddressChoice, Protocol, Server, ServicePort},
    exit::Error,
    find::Places,
    key,
    numbers::{AHEAD, Numbers},
    packet::DeviceClock,
    profile::{ClockChoice, KeySource, Named, Profile, ProfileName},
};

const KEY_FILE_VARIABLE: &str = "KNOCK_KEY_FILE";

/// How long `--keep` waits for the port after a knock before it knocks again, and `--check` before it gives up.
const KEEP_WAIT: Duration = Duration::from_secs(10);

/// A run of `knock`, decided.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) profile: Option<ProfileName>,
    pub(crate) server: Server,
    pub(crate) families: Families,
    pub(crate) keys: ClientKeys,
    pub(crate) ask: Ask,
    pub(crate) address: AddressChoice,
    pub(crate) clock: DeviceClock,
    pub(crate) repeat: Repeat,
    /// The service's port, where anybody says which.
    pub(crate) port: Option<ServicePort>,
    /// What tells whether the door is open, if anything can.
    pub(crate) wait: Option<Wait>,
    /// How long a reply is waited for, if one is asked for.
    pub(crate) reply_within: Option<Duration>,
}

/// The part of the request that is the same in every packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) action: Action,
    pub(crate) open_for: OpenFor,
    pub(crate) service: Option<ServiceName>,
    pub(crate) reply: ReplyWanted,
}

/// Which of the server's addresses are knocked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// All.
    Both,
    /// `-4`
    Ipv4,
    /// `-6`
    Ipv6,
}

/// What `--wait` waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) port: ServicePort,
    pub(crate) limit: Duration,
}

impl Plan {
    /// Reads the profile and the key, and lets flags override what the profile says.
    pub(crate) fn new(args: &Args) -> Result<Self, Error> {
        let places = Places::new(args.config.clone());
        let found = places.profile(args.profile.as_ref())?;
        let key_variable = std::env::var_os(KEY_FILE_VARIABLE).filter(|path| !path.is_empty());
        let (name, profile) = match found.named {
            Some(Named { name, profile }) => (Some(name), profile),
            None => (None, Profile::default()),
        };
        let missing = |what: &str, flag: &str| match &name {
            Some(name) => Error::Config(format!(
                "profile \"{name}\" has no {what}: put it there, or give {flag}"
            )),
            None => {
                let what = format!("{flag} isn't given, and there is no profile");
                places.missing(&what, &[], found.denied.as_deref())
            }
        };
        let realm = match &args.realm {
            Some(realm) => {
                Realm::new(realm).map_err(|error| Error::Usage(format!("--realm: {error}")))?
            }
            None => profile.realm.unwrap_or_default(),
        };
        let ahead = if args.keep { AHEAD } else { 0 };
        let clock = counter(args, name.as_ref(), profile.clock)?
            .map_or(DeviceClock::Utc, |file| DeviceClock::Counter(Numbers::new(file, ahead)));
        let port = args.port.or(profile.port);
        let wait = wait(args, port, name.as_ref())?;
        let server =
            args.server.clone().or(profile.server).ok_or_else(|| missing("server", "--server"))?;
        let secret = secret(args.key_file.clone(), profile.key, key_variable)?
            .ok_or_else(|| missing("key", "--key-file"))?;
        let (action, open_for) = if args.close {
            (Action::Close, OpenFor::Default)
        } else {
            // Who keeps a door open must know for how long it is, and the daemon's default is the daemon's.
            let keep = args.keep.then_some(Seconds::KEEP);
            let seconds = args.open_for.or(profile.open_for).or(keep);
            (Action::Open, seconds.map_or(OpenFor::Default, |s| OpenFor::Seconds(s.number())))
        };
        Ok(Self {
            profile: name,
            server,
            families: Families::of(args),
            keys: ClientKeys::derive(&secret, &realm),
            ask: Ask {
                action,
                open_for,
                service: args.service.or(profile.service),
                reply: if args.reply.is_some() { ReplyWanted::Yes } else { ReplyWanted::No },
            },
            clock,
            address: args.address.or(profile.address).unwrap_or_default(),
            repeat: args.repeat,
            port,
            reply_within: args.reply.map(Span::as_duration),
            wait,
        })
    }
}

impl Families {
    const fn of(args: &Args) -> Self {
        match (args.ipv4, args.ipv6) {
            (true, _) => Self::Ipv4,
            (false, true) => Self::Ipv6,
            (false, false) => Self::Both,
        }
    }
}

/// The file of the counter that `--set-counter` is about: what the profile says, with flags over it.
pub(crate) fn counter_file(args: &Args) -> Result<CounterFile, Error> {
    let found = match args.counter_file {
        Some(_) => None,
        None => Places::new(args.config.clone()).profile(args.profile.as_ref())?.named,
    };
    let (name, choice) = match found {
        Some(Named { name, profile }) => (Some(name), profile.clock),
        None => (None, None),
    };
    counter(args, name.as_ref(), choice)?.ok_or_else(|| {
        Error::Usage(
            "--set-counter is for a profile with clock = \"counter\", or give --counter-file"
                .into(),
        )
    })
}

/// Where the counters of profiles are that don't say where.
const COUNTERS: &str = "/var/lib/knock";

/// The file of the device's counter; `None` for a device with a clock.
fn counter(
    args: &Args,
    profile: Option<&ProfileName>,
    choice: Option<ClockChoice>,
) -> Result<Option<CounterFile>, Error> {
    if let Some(path) = &args.counter_file {
        return Ok(Some(CounterFile::new(path.clone())));
    }
    Ok(match (choice, profile) {
        (None | Some(ClockChoice::Utc), _) => None,
        (Some(ClockChoice::Counter(Some(path))), _) => Some(CounterFile::new(path)),
        (Some(ClockChoice::Counter(None)), Some(name)) => {
            Some(CounterFile::new(PathBuf::from(COUNTERS).join(format!("{name}.counter"))))
        }
        (Some(ClockChoice::Counter(None)), None) => {
            return Err(Error::Usage("a counter without a profile needs --counter-file".into()));
        }
    })
}

/// What can be waited for: a port of UDP has no handshake that would show anything.
fn wait(
    args: &Args,
    port: Option<ServicePort>,
    profile: Option<&ProfileName>,
) -> Result<Option<Wait>, Error> {
    let limit = match args.wait {
        Some(limit) => limit.as_duration(),
        None if args.keep || args.check => KEEP_WAIT,
        None => return Ok(None),
    };
    // A profile without a port is one of a service that has none of TCP.
    if args.wait.is_some() && port.is_none() && profile.is_none() {
        return Err(Error::Usage(
            "--wait needs to know the service's port: give --port, such as --port tcp/8883, or put port into the profile".into(),
        ));
    }
    let port = port.filter(|port| port.protocol == Protocol::Tcp);
    Ok(port.map(|port| Wait { port, limit }))
}

/// The key that is nearest to the user: the flag's, then the profile's, then the variable's.
fn secret(
    flag: Option<PathBuf>,
    profile: Option<KeySource>,
    variable: Option<OsString>,
) -> Result<Option<Secret>, Error> {
    if let Some(path) = flag {
        return key::read(&path, "--key-file").map(Some);
    }
    match (profile, variable) {
        (Some(KeySource::Inline(secret)), _) => Ok(Some(secret)),
        (Some(KeySource::File(path)), _) => key::read(&path, "key-file in the profile").map(Some),
        (None, Some(path)) => key::read(path.as_ref(), KEY_FILE_VARIABLE).map(Some),
        (None, None) => Ok(None),
    }
}
