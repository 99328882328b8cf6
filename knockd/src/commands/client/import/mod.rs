//! `knockd client import`: a whole fleet enrolled at once, or none of it.
//!
//! All that is new or changes goes into one file of the folder, which is written whole and renamed.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, ErrorKind, IsTerminal as _, Read},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    effect::Effect,
    folder::Folder,
    profile::{self, Server},
};
use crate::{
    commands::{Exit, Failure, Format, Output, file_mode},
    config::{self, Environment, Guard, Located, Mistakes, exposure},
    gate::policy::ClientName,
    plain::{self, Links, NotPlain},
};

mod complaints;
mod plan;
mod profiles;
mod spreadsheet;
pub(super) mod table;
#[cfg(test)]
mod tests;
mod text;

pub use table::TableFormat;

use complaints::Complaints;
use plan::{Change, Planned};
use profiles::Profiles;
use text::Text;

/// Largest table that is read, in bytes.
const MAX_LEN: u64 = 128 << 20;

/// What to import.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// The table: CSV, or JSON lines; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How FILE is written, where its name doesn't end in .csv, .jsonl, .ndjson or .json
    #[arg(long, value_enum)]
    pub format: Option<TableFormat>,
    /// The file of clients that new ones go into: NAME.toml in the folder of the clients
    #[arg(long, value_name = "NAME", default_value = "imported")]
    pub into: ClientName,
    /// Write the device's knock.toml of each client in FILE to this folder, as NAME.toml, for its owner alone
    #[arg(long, value_name = "DIR", requires = "server")]
    pub profiles: Option<PathBuf>,
    /// Where the devices reach knockd: it goes into their knock.toml
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<Server>,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Imported {
    changed: bool,
    added: usize,
    updated: usize,
    unchanged: usize,
    file: String,
    /// How many profiles were written; those that were there already, as they are, aren't.
    profiles_written: usize,
    dry_run: bool,
    in_force: bool,
}

/// Imports a table.
///
/// # Errors
/// [`Exit::DataErr`] with every mistake of the table, and whatever stands in the way of writing: no client has
/// changed then.
pub(super) fn run(
    config: &Path,
    args: &ImportArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let format = format_of(args)?;
    let table = Table::read(&args.file)?;
    if let Some(profiles) = &args.profiles {
        Profiles::judge(profiles)?;
    }
    let folder = Folder::lock(config)?;
    let known = config::load_located(config, &Environment::of_process())?;
    let target = folder.path().join(format!("{}.toml", args.into));
    let mut complaints = Complaints::default();
    let records = table::read(&table.bytes, format, &mut complaints);
    table.judge(&args.file, holds_keys(&records))?;
    let planned = plan::plan(&records, &known, &target, &mut complaints)?;
    complaints.or_fail(&args.file)?;
    drop((records, table));
    let count = |change| planned.iter().filter(|it| it.change == change).count();
    let (added, updated) = (count(Change::Added), count(Change::Updated));

    let change = (added + updated > 0)
        .then(|| checked(config, &known, &target, &planned, &args.file))
        .transpose()?;
    let control = folder.config.control.clone();
    let mut profiles_written = 0;
    let effect = if args.dry_run {
        None
    } else {
        // What stands in the way of the profiles is found before anybody is enrolled, as far as it can be.
        let profiles = args.profiles.as_deref().map(Profiles::open).transpose()?;
        if let Some((text, _)) = &change {
            if target.exists() {
                folder.replace(&target, &text.text)?;
            } else {
                folder.create(&format!("{}.toml", args.into), &text.text)?;
            }
        }
        drop(folder);
        let located = match change {
            Some((_, located)) => located,
            None => known,
        };
        let effect = Effect::take(config, &control, None)?;
        if let Some(profiles) = profiles {
            let written = write_profiles(&profiles, &planned, &located, args.server.as_ref());
            profiles_written = written.map_err(|failure| {
                let message = format!(
                    "{failure}\nThe clients are enrolled; when that is mended, the same import writes the profiles that are missing"
                );
                Failure::new(failure.exit, message)
            })?;
        }
        Some(effect)
    };
    let answer = Imported {
        changed: added + updated + profiles_written > 0,
        added,
        updated,
        unchanged: count(Change::Unchanged),
        file: target.display().to_string(),
        profiles_written,
        dry_run: args.dry_run,
        in_force: effect.as_ref().is_some_and(Effect::is_in_force),
    };
    match output.format() {
        Format::Json => output.json(&answer)?,
        Format::Human => {
            let Imported { added, updated, unchanged, profiles_written, .. } = answer;
            output.line(format!(
                "{added} added, {updated} updated, {unchanged} unchanged, {profiles_written} profiles written"
            ))?;
        }
    }
    match effect {
        Some(effect) => effect.note(output),
        None => output.note("nothing was written: this was a rehearsal"),
    }
    Ok(())
}

fn format_of(args: &ImportArgs) -> Result<TableFormat, Failure> {
    let extension = args.file.extension().and_then(|it| it.to_str()).unwrap_or_default();
    match (args.format, extension) {
        (Some(format), _) => Ok(format),
        (None, "csv") => Ok(TableFormat::Csv),
        (None, "jsonl" | "ndjson" | "json") => Ok(TableFormat::Jsonl),
        (None, _) => {
            let message = format!("say how {} is written, with --format", args.file.display());
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

/// A table as it was read, and who else can use its file.
struct Table {
    bytes: Zeroizing<Vec<u8>>,
    /// The mode of the file that it is from; none where it came by a pipe.
    mode: Option<u32>,
}

impl Table {
    fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let read = if path == Path::new("-") { Self::of_stdin() } else { Self::of_file(path) };
        let table = read.map_err(|error| {
            let exit = match error.kind() {
                ErrorKind::NotFound => Exit::NoInput,
                ErrorKind::PermissionDenied => Exit::NoPerm,
                ErrorKind::InvalidData => Exit::DataErr,
                _ => Exit::IoErr,
            };
            let what = match NotPlain::of(&error) {
                Some(NotPlain::Kind(kind)) => format!(
                    "it is {kind} and no file: give what comes by a pipe on standard input, with - as FILE and --format"
                ),
                _ => error.to_string(),
            };
            Failure::new(exit, format!("can't read {shown}: {what}"))
        })?;
        if table.bytes.len() as u64 > MAX_LEN {
            let message = format!("{shown} is larger than {} MiB: split it", MAX_LEN >> 20);
            return Err(Failure::new(Exit::DataErr, message));
        }
        Ok(table)
    }

    fn of_file(path: &Path) -> io::Result<Self> {
        let (file, metadata) =
            plain::open_with(OpenOptions::new().read(true), path, Links::Followed)?;
        Self::of(file, metadata.len(), Some(metadata.mode()))
    }

    fn of_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        let mode = file_mode(&stdin);
        Self::of(stdin.lock(), 0, mode)
    }

    fn of(from: impl Read, length: u64, mode: Option<u32>) -> io::Result<Self> {
        // With room for all of a file from the start, the text never moves and leaves a copy behind.
        let room = usize::try_from(length.min(MAX_LEN) + 1).unwrap_or(0);
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        from.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
        Ok(Self { bytes, mode })
    }

    /// Refuses a table that others can write, who would say with it who gets in, and one with keys that others can
    /// read.
    fn judge(&self, path: &Path, holds_keys: bool) -> Result<(), Failure> {
        let guard = if holds_keys { Guard::Keys } else { Guard::Settings };
        let Some((what, mend)) = self.mode.and_then(|mode| exposure(path, mode, guard)) else {
            return Ok(());
        };
        let why = if holds_keys {
            "it holds keys: whoever has read it has them"
        } else {
            "whoever can write to it says who gets in"
        };
        let message = format!("{}: {what}, and {why}; {mend}", path.display());
        Err(Failure::new(Exit::NoPerm, message))
    }
}

/// Whether a table has a key in it.
fn holds_keys(records: &[table::Record]) -> bool {
    records.iter().any(|record| record.fields.get("key").is_some_and(|key| !key.is_empty()))
}

/// The new text of the file of clients, and the configuration with it, which is sound.
fn checked(
    config: &Path,
    known: &Located,
    target: &Path,
    planned: &[Planned],
    file: &Path,
) -> Result<(Text, Located), Failure> {
    let by_hand = || {
        let message = format!(
            "{} has an entry that isn't under a [[client]] of its own: import into another file, with --into",
            target.display()
        );
        Failure::new(Exit::DataErr, message)
    };
    let Located { config: known, origins } = known;
    let before = if target.exists() { Some(config::read_clients_text(target)?) } else { None };
    let before = before.as_deref().map(|text| str::from_utf8(text)).transpose();
    let before = before.map_err(|_| by_hand())?;
    let entries: Vec<(u32, &str)> = known
        .clients
        .iter()
        .zip(origins)
        .filter(|(_, origin)| *origin.file == *target)
        .map(|(client, origin)| (origin.line, client.name.as_str()))
        .collect();
    let text = text::text(before, &entries, planned).ok_or_else(by_hand)?;
    if text.text.len() > config::CLIENTS_FILE_MAX {
        let message = format!(
            "{} would be larger than {} MiB: split FILE, and import each part with an --into of its own",
            target.display(),
            config::CLIENTS_FILE_MAX >> 20
        );
        return Err(Failure::new(Exit::DataErr, message));
    }
    match config::load_with(config, &Environment::of_process(), target, &text.text) {
        Ok(located) => Ok((text, located)),
        Err(mistakes) => Err(told(&mistakes, target, &text, file)),
    }
}

/// The configuration's mistakes, each where the table has it if it is from there.
fn told(mistakes: &Mistakes, target: &Path, text: &Text, file: &Path) -> Failure {
    let mut complaints = Complaints::default();
    for mistake in mistakes {
        let line = mistake.line.filter(|_| mistake.file == target);
        match line.and_then(|line| text.line_of_table(line)) {
            Some(line) => complaints.add(line, mistake.what.clone()),
            None => return mistakes.clone().into(),
        }
    }
    match complaints.or_fail(file) {
        Err(failure) => failure,
        Ok(()) => mistakes.clone().into(),
    }
}

fn write_profiles(
    profiles: &Profiles,
    planned: &[Planned],
    located: &Located,
    server: Option<&Server>,
) -> Result<usize, Failure> {
    let clients: HashMap<&str, _> =
        located.config.clients.iter().map(|client| (client.name.as_str(), client)).collect();
    let progress = progress(planned.len());
    let mut written = 0;
    for planned in planned {
        if let Some(client) = clients.get(planned.entry.name.as_str()) {
            let text = profile::text(client, server, &located.config);
            written += usize::from(profiles.write(&client.name, &text)?);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(written)
}

/// A bar for people who wait; nothing where standard error isn't a terminal.
fn progress(length: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX));
    match ProgressStyle::with_template("{bar:40} {pos}/{len} profiles, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
