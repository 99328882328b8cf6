//! `knockd client add`: a new client, and its device's `knock.toml`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use common::{SECRET_LEN, Secret, ServiceName};
use ipnet::IpNet;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    effect::Effect,
    entry::Entry,
    folder::Folder,
    handover::Handover,
    profile::{self, Server},
};
use crate::{
    commands::{
        Exit, Failure, Format, Output,
        moment::{self, Moment},
        output::to_json,
    },
    config::{self, Config, Found, network},
    gate::policy::{AddressPolicy, Client, ClientClock, ClientName, Standing},
};

/// A new client, as the command line has it.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// The client's name, which no other has: 1 to 64 of a-z, 0-9, '.', '_' and '-'
    pub name: ClientName,
    /// A service that it may open; several with commas between them, or by several options
    #[arg(long = "service", value_name = "SERVICE", required = true, value_delimiter = ',')]
    pub services: Vec<ServiceName>,
    /// A network that it may knock from, as 10.3.0.0/16; several likewise. Without it, any
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network::parse)]
    pub from: Vec<IpNet>,
    /// Which address it may open the door for
    #[arg(long, value_enum, default_value_t = AddressChoice::Strict)]
    pub address: AddressChoice,
    /// What keeps its packets from being accepted twice
    #[arg(long, value_enum, default_value_t = ClockChoice::Utc)]
    pub clock: ClockChoice,
    /// When its entry ends: 2027-12-31T00:00:00Z, or 2027-12-31 for the start of that day in UTC
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Moment>,
    /// Where the device reaches knockd: it goes into the device's knock.toml
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<Server>,
    /// Write the device's knock.toml to FILE, which isn't there yet and is then for its owner alone; printed if it
    /// isn't given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Succeed where there is a client of that name already, and leave it as it is; its key is not told again
    #[arg(long)]
    pub if_missing: bool,
}

/// What keeps a client's packets from being accepted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockChoice {
    /// The time that they are stamped with
    Utc,
    /// A number that rises with each: for devices without a clock
    Counter,
}

impl From<ClockChoice> for ClientClock {
    fn from(choice: ClockChoice) -> Self {
        match choice {
            ClockChoice::Utc => Self::Utc,
            ClockChoice::Counter => Self::Counter,
        }
    }
}

/// Which address a client may open the door for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddressChoice {
    /// The one in its packet, which must be the packet's source
    Strict,
    /// Also the packet's source, whatever that is: for clients behind NAT
    Observed,
}

impl From<AddressChoice> for AddressPolicy {
    fn from(choice: AddressChoice) -> Self {
        match choice {
            AddressChoice::Strict => Self::Strict,
            AddressChoice::Observed => Self::Observed,
        }
    }
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Added<'a> {
    changed: bool,
    client: &'a str,
    file: String,
    /// The device's knock.toml; null if it is in a file, or the client was there already.
    profile: Option<&'a str>,
    /// The file that it is in.
    out: Option<String>,
}

/// Makes a key, writes the client's entry, and hands out the device's `knock.toml`.
///
/// # Errors
/// [`Exit::Usage`] for a service that isn't there or a time that is past, [`Exit::CantCreat`] for a name
/// that is taken, and whatever stands in the way of writing: nothing has changed then.
pub(super) fn run(main: &Path, args: &AddArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let folder = Folder::lock(main)?;
    let config = &folder.config;
    check_services(args, config)?;
    if args.expires.is_some_and(|expires| moment::now().is_ok_and(|now| expires <= now)) {
        return Err(Failure::new(Exit::Usage, "--expires is in the past: give a later time"));
    }
    if let Some(Found { origin, .. }) = folder.find(&args.name)? {
        if args.if_missing {
            let (file, control) = (origin.file.display().to_string(), config.control.clone());
            drop(folder);
            return tell_present(main, &args.name, file, &control, output);
        }
        let message = format!(
            "there is a client {} already, at {origin}: take another name, give it a new key \
             (knockd client rotate {}), or remove it first (knockd client remove {})",
            args.name, args.name, args.name
        );
        return Err(Failure::new(Exit::CantCreat, message));
    }

    let client = Client {
        name: args.name.clone(),
        secret: new_secret()?,
        services: args.services.as_slice().into(),
        from: args.from.clone(),
        address: args.address.into(),
        clock: args.clock.into(),
        expires: args.expires.map(Into::into),
        old_key: None,
        standing: Standing::Enabled,
    };
    let entry = Entry::of(&client, config);
    let mut text = Zeroizing::new(String::with_capacity(entry.room()));
    entry.write(&mut text);
    let file_name = format!("{}.toml", client.name);
    config::check_clients(
        &folder.path().join(&file_name),
        &text,
        &config.policy.services,
        &config.master_key_file,
    )?;

    let handover = Handover::to(args.out.as_deref())?;
    let profile = profile::text(&client, args.server.as_ref(), config);
    let printed = args.out.is_none().then_some(&**profile);
    let file = folder.create(&file_name, &text)?;
    let answer = match output.format() {
        Format::Human => Zeroizing::new(printed.unwrap_or_default().to_owned()),
        Format::Json => {
            let (client, file) = (client.name.as_str(), file.display().to_string());
            let mut json = Zeroizing::new(to_json(&Added {
                changed: true,
                client,
                file,
                profile: printed,
                out: handover.file(),
            })?);
            json.push('\n');
            json
        }
    };
    if let Err(error) = handover.deliver(&profile, &answer, output) {
        // The key is told once. Nobody got it, so nobody can use the entry.
        folder.remove(&file)?;
        let message =
            format!("can't hand out the device's knock.toml ({error}): nothing was added");
        return Err(Failure::new(Exit::IoErr, message));
    }
    handover.note(output);
    profile::warn_of_placeholder(args.server.as_ref(), output);
    if client.clock == ClientClock::Counter {
        output.note(
            "the device counts its packets in a file, begun there once with: knock --set-counter 0",
        );
    }
    output.note(format!("{} is written to {}", client.name, file.display()));
    let control = config.control.clone();
    drop(folder);
    Effect::take(main, &control, None)?.note(output);
    Ok(())
}

/// Tells that there is such a client already, and that nothing has changed.
fn tell_present(
    main: &Path,
    name: &ClientName,
    file: String,
    control: &Path,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let effect = Effect::take(main, control, None)?;
    match output.format() {
        Format::Human => output.note(format!("{name} is in {file} already: nothing has changed")),
        Format::Json => {
            let client = name.as_str();
            output.json(&Added { changed: false, client, file, profile: None, out: None })?;
        }
    }
    effect.note(output);
    Ok(())
}

fn check_services(args: &AddArgs, config: &Config) -> Result<(), Failure> {
    let known = &config.policy.services;
    for (index, name) in args.services.iter().enumerate() {
        if !known.iter().any(|service| service.name == *name) {
            let names: Vec<_> = known.iter().map(|service| service.name.as_str()).collect();
            let message = format!("there is no service {name}: name one of {}", names.join(", "));
            return Err(Failure::new(Exit::Usage, message));
        }
        if args.services.iter().take(index).any(|before| before == name) {
            return Err(Failure::new(Exit::Usage, format!("{name} is named twice: name it once")));
        }
    }
    Ok(())
}

/// A secret that nobody has.
pub(super) fn new_secret() -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new([0; SECRET_LEN]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Failure::new(Exit::OsErr, format!("can't get random bytes: {error}")))?;
    Secret::new(*bytes)
        .map_err(|_| Failure::new(Exit::OsErr, "the kernel's random bytes aren't random"))
}
