//! `knockd check`: whether the configuration is sound.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::{Failure, Format, Output, moment, moment::Moment};
use crate::{
    config::{self, Config, Environment, Located, Mistake, Mistakes, duration::Written},
    gate::policy::{BanScope, Standing},
};

/// A skew above which a packet that was held back is worth a warning.
const LARGE_SKEW: Duration = Duration::from_secs(300);

/// How many warnings are shown to a person; `--json` has them all.
const SHOWN: usize = 20;

/// Check the configuration, and tell every mistake with its file, line and what to write instead
///
/// Nothing is changed, and no running daemon is asked. Exits with 0 if the configuration is sound, 78 if
/// it isn't, 77 if nothing is wrong but who can read or write its files, and 66 if it isn't there.
#[derive(Args, Clone, Debug, Default)]
#[command(
    after_help = "Examples:\n  knockd check && knockd reload\n  knockd check /tmp/knockd.toml.new"
)]
pub struct CheckArgs {
    /// A file to check that is to take the place of the configuration: names of files in it are relative to where it
    /// is to go
    #[arg(value_name = "COPY")]
    pub copy: Option<PathBuf>,
}

/// A mistake or a warning, as `--json` has it.
#[derive(Serialize)]
struct Told {
    file: String,
    line: Option<u32>,
    what: String,
    instead: String,
}

impl From<&Mistake> for Told {
    fn from(mistake: &Mistake) -> Self {
        Self {
            file: mistake.file.display().to_string(),
            line: mistake.line,
            what: mistake.what.clone(),
            instead: mistake.instead.clone(),
        }
    }
}

/// The answer as `--json` has it. The counts are null where there are mistakes.
#[derive(Serialize)]
struct Verdict {
    ok: bool,
    mistakes: Vec<Told>,
    warnings: Vec<Told>,
    services: Option<usize>,
    clients: Option<usize>,
}

/// Checks the configuration at this path.
///
/// # Errors
/// The configuration's mistakes, with the exit status that they stand for; an answer that can't be
/// written.
pub fn run(config: &Path, args: &CheckArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let (file, loaded) = match &args.copy {
        Some(copy) => (copy.as_path(), config::load_copy(copy, config, &environment)),
        None => (config, config::load_located(config, &environment)),
    };
    match loaded {
        Ok(located) => tell_sound(file, &located, output),
        Err(mistakes) => tell_mistakes(mistakes, output),
    }
}

fn tell_mistakes(mistakes: Mistakes, output: &mut Output<'_>) -> Result<(), Failure> {
    let count = mistakes.iter().count();
    if output.format() == Format::Human {
        let failure = Failure::from(mistakes);
        let message = format!("{}\n{}", failure.message, counted(count, "mistake"));
        return Err(Failure::new(failure.exit, message));
    }
    let verdict = Verdict {
        ok: false,
        mistakes: mistakes.iter().map(Told::from).collect(),
        warnings: Vec::new(),
        services: None,
        clients: None,
    };
    output.json(&verdict)?;
    let message = format!("{} in the configuration", counted(count, "mistake"));
    Err(Failure::new(mistakes.exit(), message))
}

fn tell_sound(path: &Path, located: &Located, output: &mut Output<'_>) -> Result<(), Failure> {
    let warnings = warnings(path, located, moment::now()?);
    let Config { policy, clients, listen, .. } = &located.config;
    if output.format() == Format::Json {
        return output.json(&Verdict {
            ok: true,
            mistakes: Vec::new(),
            warnings,
            services: Some(policy.services.len()),
            clients: Some(clients.len()),
        });
    }
    for Told { file, line, what, instead } in warnings.iter().take(SHOWN) {
        let line = line.map(|line| format!("{line}:")).unwrap_or_default();
        output.note(format!("warning: {file}:{line} {what}; {instead}"));
    }
    if let Some(more) = warnings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        output.note(format!("and {}: --json tells all", counted(more, "more warning")));
    }
    let listen: Vec<_> = listen.addresses().iter().map(ToString::to_string).collect();
    output.line(format!(
        "{} is sound: {}, {}, knocks at {}",
        path.display(),
        counted(policy.services.len(), "service"),
        counted(clients.len(), "client"),
        listen.join(", "),
    ))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is sound and yet may not be what was meant.
fn warnings(path: &Path, located: &Located, now: Moment) -> Vec<Told> {
    let Config { policy, allow, clients, listen, .. } = &located.config;
    let main = |what: String, instead: &str| Told {
        file: path.display().to_string(),
        line: None,
        what,
        instead: instead.to_owned(),
    };
    let mut warnings = Vec::new();
    let skew = Duration::from_millis(policy.clock_skew.as_millis());
    if skew > LARGE_SKEW {
        let what =
            format!("clock-skew is {}: a packet held back is good for so long", Written(skew));
        warnings.push(main(what, "set the devices' clocks, and write a few seconds"));
    }
    if let Some(all) = allow.networks.iter().find(|net: &&IpNet| net.prefix_len() == 0) {
        let what = format!("allow.networks has {all} in it: nobody needs to knock");
        warnings.push(main(what, "write the networks that you mean"));
    }
    if listen.addresses().iter().all(|address| address.ip().is_loopback()) {
        let what = "listen has loopback addresses only: no device's knock arrives".to_owned();
        warnings.push(main(what, "write listen = [\"[::]:62201\"]"));
    }
    if policy.ban.scope == BanScope::Host {
        let what = "ban.scope is host: the source of a packet can be forged, so that anybody can cut an address off from this host until its next knock".to_owned();
        warnings.push(main(what, "write scope = \"knock\", unless that is what you want"));
    }
    if clients.is_empty() {
        let what = "there is no client, so nobody can knock".to_owned();
        warnings.push(main(what, "run `knockd client add NAME --service SERVICE`"));
    }
    for (client, origin) in clients.iter().zip(&located.origins) {
        let mut warn = |what: String, instead: &str| {
            warnings.push(Told {
                file: origin.file.display().to_string(),
                line: Some(origin.line),
                what,
                instead: instead.to_owned(),
            });
        };
        if let Some(expires) = client.expires.map(Moment::from).filter(|expires| *expires <= now) {
            let what = format!("{} expired at {expires}", client.name);
            warn(what, "write a later time, or remove the client");
        }
        let old = client.old_key.as_ref().map(|old| Moment::from(old.until));
        if let Some(until) = old.filter(|until| *until <= now) {
            let what = format!("the old key of {} is good no longer since {until}", client.name);
            warn(what, "take old-key and old-key-until out");
        }
        if client.standing == Standing::Disabled {
            warn(format!("{} is disabled", client.name), "write enabled = true to let it in again");
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::{Exit, test_support::run_to_end},
        config::tests::{Folder, KEYS, MAIN, client},
    };

    #[test]
    fn a_sound_configuration_is_summed_up_in_one_line() {
        let folder = Folder::with_clients(MAIN, &client("a", KEYS[0], ""));
        let told =
            run_to_end(Format::Human, |output| run(&folder.main(), &CheckArgs::default(), output));
        assert_eq!(told.result, Ok(()));
        assert_eq!(
            told.answer,
            format!(
                "{} is sound: 1 service, 1 client, knocks at [::]:62201\n",
                folder.main().display()
            )
        );
        assert_eq!(told.notes, "");
    }

    #[test]
    fn what_may_not_be_meant_is_warned_of() {
        let main = format!(
            "listen = [\"127.0.0.1:1\"]\nclock-skew = \"6h\"\n{MAIN}[allow]\nnetworks = [\"::/0\"]\n\
             [ban]\nscope = \"host\"\n"
        );
        let clients = client("a", KEYS[0], "expires = 2020-01-01T00:00:00Z")
            + &client("b", KEYS[1], "enabled = false");
        let folder = Folder::with_clients(&main, &clients);
        let told =
            run_to_end(Format::Human, |output| run(&folder.main(), &CheckArgs::default(), output));
        assert_eq!(told.result, Ok(()));
        for warning in [
            "clock-skew is 6h",
            "allow.networks has ::/0",
            "loopback addresses only",
            "ban.scope is host",
            "clients.toml:1: a expired at 2020-01-01T00:00:00Z",
            "clients.toml:6: b is disabled",
        ] {
            assert!(told.notes.contains(warning), "{warning}: {}", told.notes);
        }
        let empty = Folder::new(MAIN);
        let told =
            run_to_end(Format::Human, |output| run(&empty.main(), &CheckArgs::default(), output));
        assert!(told.notes.contains("there is no client"), "{}", told.notes);
    }

    #[test]
    fn json_tells_mistakes_with_file_line_and_what_to_write_instead() {
        let folder = Folder::new(&format!("realm = 1\n{MAIN}"));
        let told =
            run_to_end(Format::Json, |output| run(&folder.main(), &CheckArgs::default(), output));
        assert_eq!(told.result.unwrap_err().exit, Exit::Config);
        let verdict: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
        assert_eq!(verdict["ok"], false);
        assert_eq!(verdict["mistakes"][0]["file"], folder.main().display().to_string());
        assert_eq!(verdict["mistakes"][0]["line"], 1);
        assert_eq!(verdict["mistakes"][0]["what"], "realm is a whole number, not a text");
        assert_eq!(verdict["mistakes"][0]["instead"], "write realm = \"\"");

        let sound = Folder::new(MAIN);
        let told =
            run_to_end(Format::Json, |output| run(&sound.main(), &CheckArgs::default(), output));
        let verdict: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
        assert_eq!((&verdict["ok"], &verdict["services"]), (&true.into(), &1.into()));
        assert_eq!(
            (&verdict["clients"], &verdict["mistakes"]),
            (&0.into(), &serde_json::json!([]))
        );
        assert!(verdict["warnings"][0]["what"].is_string());
    }
}
