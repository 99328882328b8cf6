//! `knockd client rotate`: a new key for a client, and its device's new `knock.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use common::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    add::new_secret,
    edit::Edit,
    effect::Effect,
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
    config::{self, Found, duration::Written, secret},
    gate::policy::{Client, ClientName},
};

/// The longest that an old key can stay good.
const OVERLAP_LIMIT: Duration = Duration::from_hours(365 * 24);

/// The client whose key is to change.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The client's name
    pub name: ClientName,
    /// For how long the old key stays good beside the new one; 0s ends it at once
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = overlap)]
    pub overlap: Duration,
    /// End the key before this one, though its time isn't over yet
    #[arg(long)]
    pub drop_older: bool,
    /// Where the device reaches knockd: it goes into the device's knock.toml
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<Server>,
    /// Write the device's knock.toml to FILE, which isn't there yet and is then for its owner alone; printed if it
    /// isn't given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap = config::duration::parse(text).map_err(|error| error.to_string())?;
    match overlap <= OVERLAP_LIMIT {
        true => Ok(overlap),
        false => Err(format!("an old key stays good for at most {}", Written(OVERLAP_LIMIT))),
    }
}

/// The answer as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Rotated<'a> {
    changed: bool,
    client: &'a str,
    file: String,
    old_key_until: Option<String>,
    /// The device's knock.toml; null if it is in a file.
    profile: Option<&'a str>,
    /// The file that it is in.
    out: Option<String>,
}

/// Makes a new key, writes it into the client's entry, and hands out the device's `knock.toml`.
///
/// # Errors
/// [`Exit::NoInput`] if there is no such client, [`Exit::TempFail`] if an older key is still good, and whatever
/// stands in the way of writing: nothing has changed then.
pub(super) fn run(
    config: &Path,
    args: &RotateArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let folder = Folder::lock(config)?;
    let found = folder.client(&args.name)?;
    let Found { client, origin, .. } = &found;
    let now = Timestamp::from(moment::now()?).as_millis();
    if let Some(old) = &client.old_key
        && old.until.as_millis() > now
        && !args.overlap.is_zero()
        && !args.drop_older
    {
        let (name, until) = (&args.name, Moment::from(old.until));
        let message = format!(
            "the key of {name} was changed before, and the older one is good until {until}: a device that still \
             has that one would be shut out. Wait until then, end it now with --drop-older, or end every key but \
             the new one with --overlap 0s"
        );
        return Err(Failure::new(Exit::TempFail, message));
    }
    let until = (!args.overlap.is_zero()).then(|| end(now, args.overlap));
    let rotated = Client { secret: new_secret()?, old_key: None, ..client.clone() };
    let handover = Handover::to(args.out.as_deref())?;
    let new = quoted(&rotated);
    let below = if found.generation.is_some() { "name" } else { "key" };
    let (former, until_text) = (quoted(client), until.map(|until| Moment::from(until).to_string()));
    // A derived key can't be made anew at random: the client gets one of its own.
    let mut edits = vec![
        Edit::Set { key: "key", value: &new, below: "name" },
        Edit::Remove("key-from"),
        Edit::Remove("key-generation"),
    ];
    match &until_text {
        Some(until) => edits.extend([
            Edit::Set { key: "old-key", value: &former, below },
            Edit::Set { key: "old-key-until", value: until, below },
        ]),
        None => edits.extend([Edit::Remove("old-key"), Edit::Remove("old-key-until")]),
    }
    folder.edit(&found, &edits, |edited| {
        let old = edited.old_key.as_deref();
        edited.secret.is_same(&rotated.secret)
            && old.map(|old| old.until) == until
            && old.is_none_or(|old| old.secret.is_same(&client.secret))
    })?;

    let profile = profile::text(&rotated, args.server.as_ref(), &folder.config);
    let printed = args.out.is_none().then_some(&**profile);
    let file = origin.file.display().to_string();
    let answer = match output.format() {
        Format::Human => Zeroizing::new(printed.unwrap_or_default().to_owned()),
        Format::Json => {
            let mut json = Zeroizing::new(to_json(&Rotated {
                changed: true,
                client: args.name.as_str(),
                file: file.clone(),
                old_key_until: until_text.clone(),
                profile: printed,
                out: handover.file(),
            })?);
            json.push('\n');
            json
        }
    };
    if let Err(error) = handover.deliver(&profile, &answer, output) {
        // The key is told once. Nobody got it, and no daemon knows it yet: the device keeps the one it has.
        folder.replace(&origin.file, &found.text)?;
        let message =
            format!("can't hand out the device's knock.toml ({error}): its key is as it was");
        return Err(Failure::new(Exit::IoErr, message));
    }
    handover.note(output);
    profile::warn_of_placeholder(args.server.as_ref(), output);
    output.note(match &until_text {
        Some(until) => format!("{} has a new key in {file}; its old one is good until {until}", args.name),
        None => format!(
            "{} has a new key in {file}, and its old one is good no longer; what it holds open ends with: knockd revoke {} --cut",
            args.name, args.name
        ),
    });
    let control = folder.config.control.clone();
    drop(folder);
    Effect::take(config, &control, None)?.note(output);
    Ok(())
}

/// When the overlap is over: to the second, as people write it, and no earlier than asked.
fn end(now: u64, overlap: Duration) -> Timestamp {
    let overlap = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.saturating_add(overlap).div_ceil(1000).saturating_mul(1000))
}

/// A client's key, as TOML has it.
fn quoted(client: &Client) -> Zeroizing<String> {
    let key = secret::to_text(&client.secret);
    let mut quoted = Zeroizing::new(String::with_capacity(key.len() + 2));
    quoted.push('"');
    quoted.push_str(&key);
    quoted.push('"');
    quoted
}
