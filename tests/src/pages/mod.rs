//! What comes with the programs: man pages, shell completions, and a package's changelog and copyright.
//!
//! Made of what has it already, so that nothing is told twice: the command lines as clap knows them, with
//! their `--help`; the commented files in `config/`; CHANGELOG.md; the licences of the crates that are linked
//! in. What only a man page has is a template in `knockd/man/` and `knock/man/`: see [`template`].

pub mod changelog;
mod completions;
mod copyright;
mod dependencies;
mod help;
mod keys;
mod manual;
pub mod template;

use std::fs;
use std::path::Path;

use jiff::Timestamp;

pub use manual::{commands_of, options};

/// A program of this workspace, with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The daemon.
    Knockd,
    /// The client.
    Knock,
}

impl Program {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Knockd, Self::Knock];

    /// Its name, which is also its crate's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Knockd => "knockd",
            Self::Knock => "knock",
        }
    }

    /// The name of its Debian package.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Knockd => "knockd-spa",
            Self::Knock => "knock-spa",
        }
    }

    /// Its command line.
    pub fn command(self) -> clap::Command {
        match self {
            Self::Knockd => <knockd::cli::Cli as clap::CommandFactory>::command(),
            Self::Knock => knock::command_line(),
        }
    }

    /// Its man pages: the template's name without `.in`, which is the page's.
    pub const fn pages(self) -> [&'static str; 2] {
        match self {
            Self::Knockd => ["knockd.8", "knockd.toml.5"],
            Self::Knock => ["knock.1", "knock.toml.5"],
        }
    }
}

/// Of which release the pages tell.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its version, as the packages have it.
    pub version: String,
    /// When it was made.
    pub at: Timestamp,
}

/// The text of a program's man page.
pub fn page(program: Program, page: &str, release: &Release) -> String {
    template::fill(program, page, release)
}

/// Writes all of it into a folder: `man/`, and a folder for each shell and each package.
pub fn write(folder: &Path, release: &Release) {
    for program in Program::ALL {
        for name in program.pages() {
            put(&folder.join("man").join(name), &page(program, name, release));
        }
        completions::write(folder, program);
        let package = folder.join(program.package());
        put(&package.join("changelog"), &changelog::debian(program.package(), release));
        put(&package.join("copyright"), &copyright::debian(program));
    }
}

/// Writes a file, and the folders above it.
fn put(path: &Path, text: &str) {
    let folder = path.parent().expect("a file is in a folder");
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
