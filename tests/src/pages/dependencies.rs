//! The crates that are linked into a program, with their licences and who has the copyright, as cargo and
//! their own files tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Program;
use crate::binaries::repository;

/// A crate by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// As its Cargo.toml has it: an SPDX expression, or licences with `/` between them.
    pub(super) license: String,
    /// Years and names.
    pub(super) copyright: Vec<String>,
}

/// All that are linked in, sorted by name.
pub(super) fn linked_into(program: Program) -> Vec<Crate> {
    let package = ["--package", program.name()];
    let shape = ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let tree = cargo(&[&["tree", "--locked"][..], &package, &shape].concat());
    // As "name v1.2.3", and what else cargo says of it.
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| (name, rest.split_whitespace().next().unwrap_or(rest)))
        .collect();
    let metadata = cargo(&["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let packages: BTreeMap<(&str, &str), &Value> = metadata["packages"]
        .as_array()
        .expect("cargo metadata lists packages")
        .iter()
        .map(|package| ((text(&package["name"]), text(&package["version"])), package))
        .collect();
    linked
        .iter()
        .map(|id| packages[id])
        // What has no source is of this workspace.
        .filter(|package| !package["source"].is_null())
        .map(one)
        .collect()
}

fn one(package: &Value) -> Crate {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let license = package["license"].as_str();
    let manifest = Path::new(text(&package["manifest_path"]));
    let mut copyright = holders(manifest.parent().expect("a manifest is in a folder"));
    if copyright.is_empty() {
        let authors = package["authors"].as_array().into_iter().flatten().map(text);
        copyright = authors.map(str::to_owned).collect();
    }
    if copyright.is_empty() {
        copyright.push(format!("the developers of {name}"));
    }
    Crate {
        name: name.to_owned(),
        version: version.to_owned(),
        license: license.unwrap_or_else(|| panic!("{name} {version} names no licence")).to_owned(),
        copyright,
    }
}

/// What the licences in a crate's folder say after "Copyright", each once.
fn holders(folder: &Path) -> Vec<String> {
    let files =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("read a folder").path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        path.is_file() && ["LICENSE", "LICENCE", "COPY"].iter().any(|start| name.starts_with(start))
    });
    paths.sort();
    let mut holders = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for holder in text.lines().filter_map(holder) {
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
    }
    holders
}

/// The holder that a line of a licence names. Apache's licence has a line to be filled in, and speaks of
/// copyright itself.
fn holder(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("Copyright ")?;
    let rest =
        ["(c) ", "(C) ", "© "].iter().find_map(|mark| rest.strip_prefix(mark)).unwrap_or(rest);
    let named = rest.starts_with(|first: char| first.is_ascii_digit())
        || rest.starts_with("the ")
        || rest.starts_with("The ");
    (named && !rest.contains("[yyyy]")).then(|| rest.trim_end_matches(" and").to_owned())
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).current_dir(repository()).args(args).output().expect("start cargo");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} fails: {error}", args.join(" "));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_holder_only_where_it_is_filled_in() {
        for (line, holds) in [
            ("Copyright (c) 2014 Alex Crichton", Some("2014 Alex Crichton")),
            (
                "  Copyright 2018-2026 The RustCrypto Project Developers",
                Some("2018-2026 The RustCrypto Project Developers"),
            ),
            ("Copyright (c) The Rust Project Contributors", Some("The Rust Project Contributors")),
            ("   Copyright [yyyy] [name of copyright owner]", None),
            ("Copyright License. Subject to the terms", None),
            ("The copyright notice", None),
        ] {
            assert_eq!(holder(line).as_deref(), holds, "{line}");
        }
    }

    #[test]
    fn a_program_links_its_libraries_and_neither_itself_nor_what_only_builds_it() {
        let crates = linked_into(Program::Knock);
        let has = |name: &str| crates.iter().any(|one| one.name == name);
        assert!(has("chacha20poly1305") && has("lexopt"));
        assert!(!has("knock") && !has("common"));
        assert!(!has("clap") && !has("clap_mangen") && !has("tokio"));
    }
}
