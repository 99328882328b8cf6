//! Tells what happens: numbered steps, the commands with the hosts they ran on, what they answered,
//! and whether it was as told.

use std::io::{IsTerminal as _, stdout};

use crate::binaries;
use crate::process::{Output, Process};
use crate::world::Host;

/// The most lines of a command's output that are shown.
const LINES: usize = 12;

/// A story that is being told on standard output.
#[derive(Debug)]
pub struct Story {
    colour: bool,
    step: u32,
    wrong: u32,
    path: String,
}

impl Story {
    /// Begins with a title.
    pub fn begin(title: &str) -> Self {
        let knockd = binaries::path("knockd");
        let folder = knockd.trim_end_matches("/knockd");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{folder}:{path}:/usr/sbin:/sbin");
        let story = Self { colour: stdout().is_terminal(), step: 0, wrong: 0, path };
        println!("{}", story.paint("1", title));
        story
    }

    /// The next step.
    pub fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.step)));
    }

    /// Something to know.
    pub fn say(&self, text: &str) {
        println!("   {text}");
    }

    /// Runs a command on a host and shows both it and its output.
    pub fn run(&self, host: Host<'_>, argv: &[&str], env: &[(&str, &str)]) -> Output {
        self.show_command(host.name(), argv, "");
        let output = host.run_with(argv, &[&[("PATH", self.path.as_str())], env].concat(), "");
        self.show_output(&output.stdout);
        self.show_output(&output.stderr);
        output
    }

    /// Runs a command on a host and shows it, but not its output.
    pub fn run_quietly(&self, host: Host<'_>, argv: &[&str]) -> Output {
        self.show_command(host.name(), argv, "");
        host.run_with(argv, &[("PATH", &self.path)], "")
    }

    /// Starts a process on a host and shows its command.
    pub fn start(&self, host: Host<'_>, argv: &[&str]) -> Process {
        self.show_command(host.name(), argv, " &");
        host.spawn(argv, &[("PATH", &self.path)])
    }

    /// Shows lines that a process wrote.
    pub fn show_output(&self, text: &str) {
        let boring = |line: &&str| {
            let line = line.trim();
            line.is_empty()
                || ["Starting Nmap", "Nmap ", "Host is up", "MAC Address", "PORT "]
                    .iter()
                    .any(|start| line.starts_with(start))
        };
        let lines: Vec<&str> = text.lines().filter(|line| !boring(line)).collect();
        for line in lines.iter().take(LINES) {
            println!("   {} {}", self.paint("2", "|"), shorten(line));
        }
        if lines.len() > LINES {
            println!("   {} … {} lines more", self.paint("2", "|"), lines.len() - LINES);
        }
    }

    /// Says whether something is as told.
    pub fn verdict(&mut self, as_told: bool, text: &str) {
        if as_told {
            println!("   {} {text}", self.paint("32", "✓"));
        } else {
            self.wrong += 1;
            println!("   {} {text}: NOT SO", self.paint("31", "✗"));
        }
    }

    /// Ends the story, and says whether all of it was as told.
    pub fn end(self, moral: &str) -> bool {
        println!();
        if self.wrong == 0 {
            println!("{}", self.paint("32", moral));
        } else {
            let text = format!("{} of the steps went otherwise than told", self.wrong);
            println!("{}", self.paint("31", &text));
        }
        self.wrong == 0
    }

    fn show_command(&self, host: &str, argv: &[&str], more: &str) {
        let quote = |word: &&str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+[]".contains(c);
            if word.chars().all(plain) { (*word).to_owned() } else { format!("'{word}'") }
        };
        let line = argv.iter().map(quote).collect::<Vec<_>>().join(" ");
        let prompt = self.paint("36", &format!("{host}$"));
        println!("   {prompt} {}{more}", shorten(&line));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line, cut where it gets too long to read.
fn shorten(line: &str) -> String {
    const WIDTH: usize = 150;
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH).chain(['…']).collect()
}
