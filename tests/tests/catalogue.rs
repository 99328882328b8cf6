//! The tables of SECURITY.md and of tests/FIELD.md: whatever test they name exists.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::ops::RangeInclusive;

use e2e::binaries;

/// The headings of SECURITY.md's tables whose last column names tests.
const TABLES: [&str; 2] =
    ["## Attacks, and the tests that prove what holds", "## Past holes of port knockers"];
/// Circumstances of hosts and devices, and the heading of their tables.
const FIELD: (&str, &str) = ("tests/FIELD.md", "## Circumstances");
/// Their ids, from F01 on: of hosts, of the kernel's table in company, of devices.
const CIRCUMSTANCES: [RangeInclusive<u8>; 3] = [1..=16, 20..=26, 30..=45];
/// How the last cell of a circumstance begins that no test shows.
const NOT_SHOWN: &str = "not shown by a test: ";
/// Where the scenes of the system test are, and how tables name that folder.
const SCENES: (&str, &str) = ("tests/src/bin/system/scenes/", "scenes/");

/// The rows under a heading of a file, each as its cells, without the tables' own headings.
fn rows(file: &str, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(binaries::repository().join(file)).expect("read");
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert_eq!(lines.next(), Some(heading), "{file} has this heading");
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

/// The tests that a cell names: `replay::name` is in tests/tests/replay.rs, `knockd/tests/gate::name` in
/// knockd/tests/gate.rs, and `scenes/unkept::title` is a check of the system test's scene unkept.
fn tests_named(cell: &str) -> Vec<(String, &str)> {
    let words = cell.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit_once("::"));
    words
        .map(|(file, name)| {
            let path = match file.strip_prefix(SCENES.1) {
                Some(scene) => format!("{}{scene}.rs", SCENES.0),
                None if file.contains('/') => format!("{file}.rs"),
                None => format!("tests/tests/{file}.rs"),
            };
            (path, name)
        })
        .collect()
}

/// The tests that the last cells of these rows name and that don't exist.
fn missing(rows: &[Vec<String>]) -> Vec<String> {
    let cells = rows.iter().map(|cells| cells.last().expect("a cell"));
    let absent =
        cells.flat_map(|cell| tests_named(cell)).filter(|(file, name)| !exists(file, name));
    absent.map(|(file, name)| format!("{file}: {name}")).collect()
}

fn exists(file: &str, name: &str) -> bool {
    if file.starts_with(SCENES.0) { has_check(file, name) } else { has_test(file, name) }
}

/// Whether a scene of the system test has a check of this title.
fn has_check(file: &str, title: &str) -> bool {
    let text = fs::read_to_string(binaries::repository().join(file)).unwrap_or_default();
    // Where it is long, it stands before the check, under a name.
    text.contains("report.check(") && text.contains(&format!("\"{title}\""))
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
fn every_test_that_security_md_and_the_circumstances_name_exists() {
    let mut all: Vec<_> =
        TABLES.into_iter().flat_map(|heading| rows("SECURITY.md", heading)).collect();
    all.extend(rows(FIELD.0, FIELD.1));
    let absent = missing(&all);
    assert!(absent.is_empty(), "tests that don't exist are named:\n{}", absent.join("\n"));
}

#[test]
fn every_attack_has_a_test_and_every_past_hole_has_one_or_a_reason_in_the_design() {
    let [attacks, holes] = TABLES.map(|heading| rows("SECURITY.md", heading));
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
fn every_circumstance_has_a_row_with_a_test_or_with_why_there_is_none() {
    let rows = rows(FIELD.0, FIELD.1);
    for cells in &rows {
        assert_eq!(cells.len(), 4, "{cells:?}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
    }
    let ids: Vec<&str> = rows.iter().map(|cells| cells[0].as_str()).collect();
    let expected: Vec<String> =
        CIRCUMSTANCES.into_iter().flatten().map(|number| format!("F{number:02}")).collect();
    assert_eq!(ids, expected);
    let mut unshown = rows.iter().filter(|cells| tests_named(&cells[3]).is_empty());
    assert_eq!(unshown.find(|cells| !cells[3].starts_with(NOT_SHOWN)), None);
}

#[test]
fn a_test_that_does_not_exist_is_found_missing() {
    assert!(has_test("tests/tests/catalogue.rs", "a_test_that_does_not_exist_is_found_missing"));
    assert!(!has_test("tests/tests/catalogue.rs", "a_test_that_does_not_exist"));
    assert!(!has_test("tests/tests/catalogue.rs", "has_test"));
    assert!(!has_test("tests/tests/nowhere.rs", "a_test_that_does_not_exist_is_found_missing"));
    let named = |cell: &str| missing(&[vec![cell.to_owned()]]).is_empty();
    assert!(named("`scenes/unkept::with a read-only root, the first boot shuts the port`"));
    assert!(!named("`scenes/unkept::with a read-only root`"));
    assert!(!named("`scenes/nowhere::with a read-only root, the first boot shuts the port`"));
}
