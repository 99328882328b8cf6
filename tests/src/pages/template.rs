//! A man page's template: man(7), but for lines `@WHAT ARGUMENT@`, each of which becomes what is told
//! elsewhere.
//!
//! | line | becomes |
//! | --- | --- |
//! | `@title SECTION TEXT@` | the page's title |
//! | `@synopsis@` | how the program is called |
//! | `@options@` | its options and arguments |
//! | `@commands@` | its commands, each with its own |
//! | `@help HEADING@` | what stands in `--help` under this heading, below the options; `@help@`: under none |
//! | `@intro FILE@` | what begins a commented file in `config/` |
//! | `@keys FILE default@` | its keys, with their defaults; `example`: with examples of values |
//! | `@events@` | the kinds of events, from `config/EVENTS.md` |
//! | `@fields@` | the events' fields, from there too |

use std::fs;

use super::{Program, Release, help::Help, keys, manual};
use crate::binaries::repository;
use knockd::telemetry::catalogue::EVENTS;

/// So that an apostrophe is one in every output: roff's crate writes it as `\*(Aq`.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// The page that a template becomes.
pub(super) fn fill(program: Program, page: &str, release: &Release) -> String {
    let path = repository().join(program.name()).join("man").join(format!("{page}.in"));
    let template =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let command = program.command();
    let mut help = Help::of(&command);
    let mut text = String::new();
    for line in template.lines() {
        let Some(asked) = line.strip_prefix('@').and_then(|line| line.strip_suffix('@')) else {
            text += line;
            text.push('\n');
            continue;
        };
        let (what, argument) = asked.split_once(' ').unwrap_or((asked, ""));
        text += &match what {
            "title" => title(page, argument, program, release),
            "synopsis" => manual::synopsis(&command),
            "options" => manual::own_options(&command),
            "commands" => manual::commands(&command),
            "help" => help.take(argument),
            "intro" => keys::intro(&read(argument)),
            "keys" => {
                let (file, values) = argument.split_once(' ').expect("@keys FILE VALUES@");
                keys::list(&read(file), values)
            }
            "events" => rows("| event | level | fields | what happened |", |row| {
                let [event, .., what] = row else { return None };
                Some((cell(event), manual::prose(what)))
            }),
            "fields" => rows("| field | content |", |row| {
                let [fields, content] = row else { return None };
                let names = fields.split(", ").map(|field| format!("KNOCKD_{}", cell(field)));
                let names: Vec<_> = names.map(|name| name.to_uppercase()).collect();
                Some((names.join(", "), manual::prose(content)))
            }),
            _ => panic!("{}: what is {line}?", path.display()),
        };
    }
    if page.starts_with(command.get_name()) && !page.contains(".toml.") {
        help.assert_all_told(page);
    }
    format!("{PREAMBLE}{text}")
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn title(page: &str, manual: &str, program: Program, release: &Release) -> String {
    let (name, section) = page.rsplit_once('.').expect("a page's name has its section");
    let date = release.at.strftime("%Y-%m-%d");
    let (program, version) = (program.name(), &release.version);
    format!(".TH {name} {section} {date} \"{program} {version}\" \"{manual}\"\n")
}

/// The rows of the table of events that has this head, each as a term and what is said of it.
fn rows(head: &str, tell: impl Fn(&[&str]) -> Option<(String, String)>) -> String {
    let rows = EVENTS.lines().skip_while(|line| *line != head).skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let text: String = rows
        .map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let (term, content) = tell(&cells).unwrap_or_else(|| panic!("no row of {head}: {row}"));
            format!(".TP\n{}\n{content}\n", manual::bold(&term))
        })
        .collect();
    assert!(!text.is_empty(), "there is no table {head} in config/EVENTS.md");
    text
}

/// A name as a cell has it, without its marks.
fn cell(name: &str) -> String {
    name.trim_matches('`').to_owned()
}
