//! `knockd doctor`: why a knock would not let a device in on this host.
//!
//! One file for each check, or family of checks. Each looks at one thing, and adds what it finds to the report;
//! what it could not look at is told as well, and isn't taken for sound.
//!
//! # Security considerations
//! Nothing is changed, and nothing is sent: files are read, the daemon is asked for its status, and programs are
//! run that list (`nft`, `iptables-save`, `systemctl`, `timedatectl`) or check without doing (`nft --check`).

mod clock;
mod conntrack;
mod containers;
mod daemon;
mod files;
mod finding;
mod firewall;
mod host;
mod kernel;
mod listening;
mod mend;
mod nft;
mod protected;
mod routing;
mod rules;
mod shortcuts;
mod silence;
mod sockets;
mod table;
mod units;
mod ways;

use std::path::Path;

use clap::Args;
use serde::Serialize;

use self::{
    finding::{Finding, Report, Severity, Unable},
    host::Host,
    rules::read::{self, Everything},
};
use super::{Exit, Failure, Format, Output};
use crate::{
    config::{self, Config, MistakeKind},
    control::Status,
    firewall::ruleset::Ruleset,
    plan,
};

/// Say why a knock would not let a device in on this host, and how to mend it
///
/// Looks at the configuration, the table, the daemon, every other firewall's rules, who listens, the clock, files
/// and units. Changes nothing. As root it sees everything; what it can't look at, it names.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {}

const AFTER_HELP: &str = "\
Examples:
  knockd doctor
  knockd doctor --json | jq '.findings[] | select(.severity == \"fault\")'

A fault keeps devices out, or the door open; a warning may; a note is worth knowing.

Exit status:
  0   no fault (warnings and notes perhaps)
  69  at least one fault
  77  no fault, but a check that needs root could not be made";

/// Why what follows from the configuration can't be looked at.
const WRONG: &str = "the configuration is wrong";

/// What the checks look at together.
struct Examined {
    /// `None` if it isn't sound, not even without its clients.
    config: Option<Config>,
    host: Result<Host, Unable>,
    rules: Result<Everything, Unable>,
    /// What the daemon says of itself; `None` if none listens.
    status: Result<Option<Status>, Unable>,
}

impl Examined {
    fn config(&self) -> Result<&Config, Unable> {
        self.config.as_ref().ok_or_else(|| Unable::other(WRONG))
    }

    /// The table that follows from it.
    fn ruleset(&self) -> Result<Ruleset, Unable> {
        let config = self.config()?;
        Ok(plan::ruleset(config, config.clients.len()))
    }

    fn host(&self) -> Result<&Host, Unable> {
        self.host.as_ref().map_err(Clone::clone)
    }

    fn status(&self) -> Result<Option<&Status>, Unable> {
        self.status.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    fn rules(&self) -> Result<&Everything, Unable> {
        self.rules.as_ref().map_err(Clone::clone)
    }
}

/// Examines this host.
///
/// # Errors
/// A [`Failure`]: EX_UNAVAILABLE if there is a fault, EX_NOPERM if there is none and something could not be looked
/// at for want of a permission; an answer that can't be written.
pub fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut report = Report::default();
    let config = load(config, &mut report);
    let status = match &config {
        Some(config) => daemon::ask(&config.control),
        None => Err(Unable::other(WRONG)),
    };
    let examined = Examined { config, host: Host::look(), rules: read::everything(), status };
    report.check("kernel", |findings| kernel::check(&examined, findings));
    report.check("table", |findings| table::check(&examined, findings));
    report.check("daemon", |findings| daemon::check(&examined, findings));
    report.check("knock-port", |findings| listening::knock_port(&examined, findings));
    report.check("services", |findings| listening::services(&examined, findings));
    report.check("nft", |findings| nft::check(&examined, findings));
    report.check("firewall", |findings| firewall::check(&examined, findings));
    report.check("routing", |findings| routing::check(&examined, findings));
    report.check("conntrack", |findings| conntrack::check(&examined, findings));
    report.check("shortcuts", |findings| shortcuts::check(&examined, findings));
    report.check("published-ports", |findings| containers::published(&examined, findings));
    report.check("containers", |findings| containers::forgotten(&examined, findings));
    report.check("clock", clock::synchronized);
    report.check("memory-of-packets", |findings| clock::against_memory(&examined, findings));
    report.check("protected-addresses", protected::check);
    report.check("files", |findings| files::check(&examined, findings));
    report.check("units", units::check);
    report.check("silence", |findings| silence::check(&examined, findings));
    report.findings.sort_by_key(|finding| finding.severity);
    tell(&report, output)
}

/// Reads the configuration, and tells its mistakes; what can be used of it all the same is used.
fn load(path: &Path, report: &mut Report) -> Option<Config> {
    let mut config = None;
    report.check("configuration", |findings| {
        let mistakes = match config::load(path) {
            Ok(sound) => {
                config = Some(sound);
                return Ok(());
            }
            Err(mistakes) => mistakes,
        };
        config = config::load_without_clients(path).ok();
        let is_root = nix::unistd::geteuid().is_root();
        for mistake in &mistakes {
            let line = mistake.line.map(|line| format!(":{line}")).unwrap_or_default();
            let place = format!("{}{line}", mistake.file.display());
            if mistake.kind == MistakeKind::Permission
                && !is_root
                && mistake.what.contains("may not")
            {
                findings.unable(Unable::denied(format!("{place}: {}", mistake.what)));
                continue;
            }
            let id = match mistake.kind {
                MistakeKind::Permission => "file-exposed",
                MistakeKind::Content | MistakeKind::NoInput | MistakeKind::Io => "configuration",
            };
            let mend =
                mistake.instead.strip_prefix("run `").and_then(|rest| rest.strip_suffix('`'));
            let mend = mend.unwrap_or(&mistake.instead);
            findings.add(Finding::fault(id, mistake.what.clone()).at(place).mend(mend));
        }
        Ok(())
    });
    config
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Answer<'a> {
    /// Whether there is no fault.
    ok: bool,
    /// Whether all checks could be made.
    complete: bool,
    #[serde(flatten)]
    report: &'a Report,
}

fn tell(report: &Report, output: &mut Output<'_>) -> Result<(), Failure> {
    let faults = report.count(Severity::Fault);
    match output.format() {
        Format::Json => output.json(&Answer {
            ok: faults == 0,
            complete: report.unchecked.is_empty(),
            report,
        })?,
        Format::Human => tell_people(report, output)?,
    }
    let needs_root = report.unchecked.iter().any(|unchecked| unchecked.needs_root);
    if faults > 0 {
        let message = format!("{}: see above for what mends each", counted(faults, "fault"));
        return Err(Failure::new(Exit::Unavailable, message));
    }
    if needs_root {
        let message = "no fault was found, but not all could be looked at: run it as root";
        return Err(Failure::new(Exit::NoPerm, message));
    }
    Ok(())
}

fn tell_people(report: &Report, output: &mut Output<'_>) -> Result<(), Failure> {
    for Finding { id, severity, what, place, mend } in &report.findings {
        output.line(format!("{:<8} {id}: {what}", severity.name()))?;
        if let Some(place) = place {
            output.line(format!("         where: {place}"))?;
        }
        if let Some(mend) = mend {
            output.line(format!("         mend:  {mend}"))?;
        }
    }
    for unchecked in &report.unchecked {
        output.line(format!(
            "unknown  {}: could not be checked: {}",
            unchecked.check, unchecked.why
        ))?;
    }
    let found: Vec<_> = [Severity::Fault, Severity::Warning, Severity::Note]
        .into_iter()
        .map(|severity| (report.count(severity), severity.name()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| counted(count, name))
        .collect();
    let found = match found.is_empty() {
        true => "nothing found".to_owned(),
        false => found.join(", "),
    };
    let unknown = match report.unchecked.len() {
        0 => String::new(),
        count => format!("; {count} could not be made, of which nothing is known"),
    };
    output.line(format!("{found}: {} passed{unknown}", counted(report.passed.len(), "check")))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
