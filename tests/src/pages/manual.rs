//! A command line as man(7), by `clap_mangen`.

use clap::{Arg, Command};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold as strong, roman},
};

use super::help::Help;

/// One line of text in bold.
pub(super) fn bold(text: &str) -> String {
    body(&Roff::new().text([strong(text)]).render())
}

/// One line of text; what stands between two `` ` `` is bold.
pub(super) fn prose(text: &str) -> String {
    let inlines: Vec<Inline> = text
        .split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 1 { strong(part) } else { roman(part) })
        .collect();
    body(&Roff::new().text(inlines).render())
}

/// Lines as they are, to be typed or compared.
pub(super) fn verbatim<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    let lines: String = lines
        .into_iter()
        .map(|line| body(&Roff::new().text([roman(line)]).render()) + "\n")
        .collect();
    format!(".PP\n.nf\n{lines}.fi\n")
}

/// What was rendered, without the preamble and headings: a page has one preamble, and its own headings.
fn body(rendered: &str) -> String {
    let rest = [".ie ", ".el ", ".SH "];
    let lines: Vec<&str> =
        rendered.lines().filter(|line| !rest.iter().any(|start| line.starts_with(start))).collect();
    lines.join("\n")
}

/// A part of a page, as `clap_mangen` has it.
fn part(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).expect("a Vec takes all");
    body(&String::from_utf8(bytes).expect("UTF-8")) + "\n"
}

/// How a command is called, as `--help` has it: `clap_mangen` leaves out what an option's value is.
pub(super) fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let form = |form: &str| {
        let rest = form.strip_prefix(name).unwrap_or_else(|| panic!("{form:?} begins with {name}"));
        body(&Roff::new().text([strong(name), roman(rest)]).render()) + "\n"
    };
    let forms = usage.trim_start_matches("Usage:").lines().map(str::trim);
    forms.map(form).collect::<Vec<_>>().join(".br\n")
}

/// A command's own options and arguments.
pub(super) fn own_options(command: &Command) -> String {
    let man = Man::new(command.clone());
    part(|to| man.render_options_section(to))
}

/// The commands below a command, in the order of `--help`, each with the name it is called by; those that
/// gather others before these.
pub fn commands_of(command: &Command) -> Vec<(String, Command)> {
    fn walk(name: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = format!("{name} {}", sub.get_name());
            found.push((name.clone(), sub.clone()));
            walk(&name, sub, found);
        }
    }
    let mut found = Vec::new();
    walk(command.get_name(), command, &mut found);
    found
}

/// The options and arguments of a command's own that a page must tell of.
pub fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set())
}

/// Each command under a heading, with its options, and what its `--help` says below them.
pub(super) fn commands(command: &Command) -> String {
    let mut text = String::new();
    for (name, command) in commands_of(command) {
        // Its own options alone: those of every command stand above, and `--help` is one of them.
        let own = command
            .bin_name(&name)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .disable_help_subcommand(true);
        text += &format!(".SS {name}\n");
        text += &synopsis(&own);
        text += ".PP\n";
        let man = Man::new(own.clone());
        text += &part(|to| man.render_description_section(to));
        text += &own_options(&own);
        text += &Help::of(&own).all();
    }
    text
}
