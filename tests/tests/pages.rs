//! The man pages and completions tell of all there is.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use clap::Arg;
use e2e::door::write_private;
use e2e::pages::{self, Program, Release, commands_of, options};
use e2e::{Output, binaries};
use jiff::Timestamp;

fn release() -> Release {
    Release { version: "1.2.3".to_owned(), at: Timestamp::UNIX_EPOCH }
}

/// A page as its reader sees it, line by line; macros stay.
fn page(program: Program, name: &str) -> String {
    let text = pages::page(program, name, &release());
    [("\\-", "-"), ("\\*(Aq", "'"), ("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\.", ".")]
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to))
}

/// The terms of a page's lists below a heading, up to the next heading.
fn terms<'p>(page: &'p str, heading: &str) -> Vec<&'p str> {
    let lines: Vec<&str> = page.lines().collect();
    let start = lines.iter().position(|line| *line == heading);
    let start = start.unwrap_or_else(|| panic!("there is no {heading}"));
    let is_heading = |line: &str| line.starts_with(".SH ") || line.starts_with(".SS ");
    let section: Vec<&str> =
        lines[start + 1..].iter().copied().take_while(|line| !is_heading(line)).collect();
    section.windows(2).filter(|pair| pair[0] == ".TP").map(|pair| pair[1]).collect()
}

/// Whether a list tells of an option or argument: by each of its names.
fn tells(terms: &[&str], arg: &Arg) -> bool {
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    let values = arg.get_value_names().unwrap_or_default();
    names.extend(values.iter().map(ToString::to_string).filter(|_| arg.is_positional()));
    assert!(!names.is_empty(), "{arg:?} has no name");
    let has = |term: &str, name: &str| {
        term.split([' ', ',', '=', '[', ']', '<', '>', '|']).any(|word| word == name)
            || term.contains(&format!("<{name}>"))
    };
    terms.iter().any(|term| names.iter().all(|name| has(term, name)))
}

#[test]
fn every_command_and_every_flag_stands_in_its_programs_man_page() {
    let mut seen = 0;
    for program in Program::ALL {
        let page = page(program, program.pages()[0]);
        let mut check = |name: &str, command: &clap::Command, terms: &[&str]| {
            for arg in options(command) {
                assert!(tells(terms, arg), "{name}: {} is not in {terms:?}", arg.get_id());
                seen += 1;
            }
        };
        let mut command = program.command();
        let commands = commands_of(&command);
        // With -h and -V, which clap adds when it builds the command.
        command.build();
        check(program.name(), &command, &terms(&page, ".SH OPTIONS"));
        for (name, command) in commands {
            check(&name, &command, &terms(&page, &format!(".SS {name}")));
        }
    }
    assert!(seen > 30, "only {seen} flags were looked for");
}

#[test]
fn a_flag_that_a_page_leaves_out_is_missed() {
    let page = page(Program::Knockd, "knockd.8");
    let terms = terms(&page, ".SS knockd client add");
    assert!(tells(&terms, &Arg::new("service").long("service")));
    assert!(!tells(&terms, &Arg::new("services").long("services")));
    assert!(!tells(&terms, &Arg::new("json").long("serv")));
}

/// The keys that a message lists behind these words.
fn listed(said: &str, behind: &str) -> BTreeSet<String> {
    let (_, keys) = said.split_once(behind).unwrap_or_else(|| panic!("no keys in: {said}"));
    let keys = keys.lines().next().unwrap_or(keys);
    keys.replace(" and ", ", ").split(", ").map(str::to_owned).collect()
}

/// The keys that knockd knows in a table: it lists them when it finds one that it doesn't. `None` where that
/// is no table.
fn known_to_knockd(folder: &Path, main: &str, clients: &str) -> Option<BTreeSet<String>> {
    let guarded = "[[service]]\nname = \"a\"\nports = [\"tcp/1\"]\n";
    let config = folder.join("knockd.toml");
    fs::create_dir_all(folder.join("clients.d")).expect("make a folder");
    fs::set_permissions(folder.join("clients.d"), fs::Permissions::from_mode(0o700))
        .expect("chmod");
    write_private(&folder.join("clients.d/one.toml"), clients);
    // Above the tables, what is at top level.
    let (above, below) = if main.starts_with('[') { ("", main) } else { (main, "") };
    write_private(&config, &format!("{above}\n{guarded}{below}"));
    let mut knockd = Command::new(binaries::path("knockd"));
    knockd.args(["check", "--config"]).arg(&config);
    let said = Output::of(knockd, "", "knockd check").exits(78).stderr;
    let unknown = said.lines().find(|line| line.contains("there is an unknown key"))?;
    Some(listed(unknown, "write one of "))
}

#[test]
fn every_key_that_knockd_knows_stands_in_knockd_toml_5() {
    let page = page(Program::Knockd, "knockd.toml.5");
    let folder = tempfile::tempdir().expect("make a folder");
    let assert_told = |heading: &str, keys: &BTreeSet<String>| {
        let told = terms(&page, heading);
        for key in keys {
            assert!(told.contains(&key.as_str()), "{key} is not under {heading}: {told:?}");
        }
    };
    let top = known_to_knockd(folder.path(), "zzzzzzzz = 1", "").expect("the top level");
    let mut tables = 0;
    let mut keys = BTreeSet::new();
    for name in top {
        let table = |header: String| {
            let found = known_to_knockd(folder.path(), &format!("{header}\nzzzzzzzz = 1\n"), "");
            found.map(|keys| assert_told(&format!(".SS {header}"), &keys))
        };
        if table(format!("[{name}]")).or_else(|| table(format!("[[{name}]]"))).is_some() {
            tables += 1;
        } else {
            keys.insert(name);
        }
    }
    assert!(tables > 5 && keys.len() > 5, "{tables} tables, and {keys:?}");
    assert_told(".SH KNOCKD.TOML", &keys);
    let client = known_to_knockd(folder.path(), "", "[[client]]\nzzzzzzzz = 1\n");
    assert_told(".SS [[client]]", &client.expect("a client's entry"));
}

#[test]
fn every_key_that_knock_knows_stands_in_knock_toml_5() {
    let page = page(Program::Knock, "knock.toml.5");
    let folder = tempfile::tempdir().expect("make a folder");
    let profile = folder.path().join("knock.toml");
    write_private(&profile, "[broker]\nzzzzzzzz = 1\n");
    let mut knock = Command::new(binaries::path("knock"));
    knock.arg("--config").arg(&profile);
    let said = Output::of(knock, "", "knock").exits(78).stderr;
    let told = terms(&page, ".SS [broker]");
    for key in listed(&said, "the known ones are ") {
        assert!(told.contains(&key.as_str()), "{key} is not among {told:?}");
    }
}

#[test]
fn every_reason_of_a_refusal_is_explained() {
    let page = page(Program::Knockd, "knockd.8");
    let events = fs::read_to_string(binaries::repository().join("config/EVENTS.md")).expect("read");
    let row = events.lines().find(|line| line.starts_with("| `reason` | ")).expect("its row");
    let reasons: Vec<&str> = row.split('`').skip(3).step_by(2).collect();
    assert!(reasons.len() > 15, "{reasons:?}");
    let told: BTreeSet<&str> = page.split([' ', '\n', ',']).collect();
    for reason in reasons {
        assert!(told.contains(reason), "{reason} is not in knockd.8");
    }
}

#[test]
fn every_page_has_the_sections_that_a_man_page_has() {
    for program in Program::ALL {
        for name in program.pages() {
            let page = page(program, name);
            let mut wanted = vec![
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "FILES",
                "EXAMPLES",
                "SECURITY",
                "SEE ALSO",
            ];
            if !name.ends_with(".5") {
                wanted.extend(["OPTIONS", "EXIT STATUS", "ENVIRONMENT"]);
            }
            for section in wanted {
                assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}");
            }
        }
    }
}

/// What bash offers for a line.
fn bash_offers(script: &Path, words: &[&str]) -> BTreeSet<String> {
    let mut bash = Command::new("bash");
    let function = words[0];
    let complete = format!(
        "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
         _{function} {function} \"${{@: -1}}\" \"${{@: -2:1}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    bash.args(["--norc", "-ec", &complete, "bash"]).arg(script).args(words);
    let offered = Output::of(bash, "", "bash").success().stdout;
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_every_command_and_flag() {
    let folder = tempfile::tempdir().expect("make a folder");
    pages::write(folder.path(), &release());
    for program in Program::ALL {
        let script = folder.path().join("bash").join(program.name());
        let command = program.command();
        let commands = std::iter::once((program.name().to_owned(), command.clone()));
        for (name, command) in commands.chain(commands_of(&command)) {
            let words: Vec<&str> = name.split(' ').collect();
            let offered = bash_offers(&script, &[&words[..], &[""]].concat());
            for sub in command.get_subcommands() {
                assert!(offered.contains(sub.get_name()), "{name}: {offered:?}");
            }
            let flags = bash_offers(&script, &[&words[..], &["-"]].concat());
            for long in options(&command).filter_map(Arg::get_long) {
                assert!(flags.contains(&format!("--{long}")), "{name} --{long}: {flags:?}");
            }
        }
    }
}

#[test]
fn zsh_and_fish_know_every_command_and_flag() {
    let folder = tempfile::tempdir().expect("make a folder");
    pages::write(folder.path(), &release());
    for program in Program::ALL {
        let name = program.name();
        let read = |file: String| fs::read_to_string(folder.path().join(file)).expect("read");
        let (zsh, fish) = (read(format!("zsh/_{name}")), read(format!("fish/{name}.fish")));
        assert!(zsh.starts_with(&format!("#compdef {name}")), "zsh finds it by its first line");
        let command = program.command();
        for (_, command) in commands_of(&command).into_iter().chain([(String::new(), command)]) {
            let name = command.get_name();
            assert!(zsh.contains(name) && fish.contains(name), "{name}");
            for long in options(&command).filter_map(Arg::get_long) {
                assert!(zsh.contains(&format!("--{long}")), "zsh: --{long} of {name}");
                assert!(fish.contains(&format!("-l {long}")), "fish: --{long} of {name}");
            }
        }
    }
}
