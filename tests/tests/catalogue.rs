//! SECURITY.md's tables: whatever test they name exists.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;

use e2e::binaries;

/// The headings of the tables whose last column names tests.
const TABLES: [&str; 2] =
    ["## Attacks, and the tests that prove what holds", "## Past holes of port knockers"];

/// The rows under a heading, each as its cells, without the tables' own headings.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(binaries::repository().join("SECURITY.md")).expect("read");
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert_eq!(lines.next(), Some(heading), "SECURITY.md has this heading");
    let section = lines.take_while(|line| !line.starts_with("## "));
    let cells = |line: &str| {
        line.trim_matches('|').split(" | ").map(str::trim).map(str::to_owned).collect()
    };
    let table: Vec<&str> = section.filter(|line| line.starts_with('|')).collect();
    // What stands above a line of dashes, and that line, are a heading.
    let is_rule = |line: &&str| line.starts_with("| --- |");
    let is_row = |at: &usize| !is_rule(&table[*at]) && !table.get(at + 1).is_some_and(is_rule);
    (0..table.len()).filter(is_row).map(|at| cells(table[at])).collect()
}

/// The tests that a cell names: `replay::name` is in tests/tests/replay.rs, and
/// `knockd/tests/gate::name` in knockd/tests/gate.rs.
fn tests_named(cell: &str) -> Vec<(String, &str)> {
    let words = cell.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit_once("::"));
    words
        .map(|(file, name)| {
            let folder = if file.contains('/') { "" } else { "tests/tests/" };
            (format!("{folder}{file}.rs"), name)
        })
        .collect()
}

/// Whether a file has a test of this name, one that is run.
fn has_test(file: &str, name: &str) -> bool {
    let text = fs::read_to_string(binaries::repository().join(file)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |pair: &[&str]| {
        pair[0] == "#[test]"
            && pair[1].strip_prefix("fn ").is_some_and(|rest| {
                rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))
            })
    };
    lines.windows(2).any(is_it)
}

#[test]
fn every_test_that_security_md_names_exists() {
    let mut missing = Vec::new();
    for cells in TABLES.into_iter().flat_map(rows) {
        let named = tests_named(cells.last().expect("a cell"));
        missing.extend(named.into_iter().filter_map(|(file, name)| {
            (!has_test(&file, name)).then(|| format!("{file}: {name}"))
        }));
    }
    assert!(
        missing.is_empty(),
        "SECURITY.md names tests that don't exist:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_attack_has_a_test_and_every_past_hole_has_one_or_a_reason_in_the_design() {
    let [attacks, holes] = TABLES.map(rows);
    for cells in attacks.iter().chain(&holes) {
        assert_eq!(cells.len(), 3, "{cells:?}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
    }
    let has_none = |cells: &&Vec<String>| tests_named(&cells[2]).is_empty();
    assert!(!attacks.is_empty() && !holes.is_empty());
    assert_eq!(attacks.iter().find(has_none), None);
    let mut unexplained = holes.iter().filter(has_none);
    assert_eq!(unexplained.find(|cells| !cells[2].starts_with("by design: ")), None);
}

#[test]
fn a_test_that_does_not_exist_is_found_missing() {
    assert!(has_test("tests/tests/catalogue.rs", "a_test_that_does_not_exist_is_found_missing"));
    assert!(!has_test("tests/tests/catalogue.rs", "a_test_that_does_not_exist"));
    assert!(!has_test("tests/tests/catalogue.rs", "has_test"));
    assert!(!has_test("tests/tests/nowhere.rs", "a_test_that_does_not_exist_is_found_missing"));
}
