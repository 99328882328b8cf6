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
//! | `@fields FILE@` | the events' fields, from the table that begins a source file |

use std::fs;

use super::{Program, Release, help::Help, keys, manual};
use crate::binaries::repository;

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
            "fields" => fields(&read(argument)),
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

/// The events' fields, by the names that the journal gives them.
fn fields(source: &str) -> String {
    let rows = source
        .lines()
        .skip_while(|line| *line != "//! | field | content |")
        .skip(2)
        .map_while(|line| line.strip_prefix("//! | `")?.strip_suffix(" |")?.split_once("` | "));
    let text: String = rows
        .map(|(field, content)| {
            let field = format!("KNOCKD_{}", field.to_uppercase());
            format!(".TP\n{}\n{}\n", manual::bold(&field), manual::prose(content))
        })
        .collect();
    assert!(!text.is_empty(), "the table of the fields isn't where it was");
    text
}
