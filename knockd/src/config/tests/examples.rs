//! The commented examples that come with the daemon.

use std::collections::BTreeSet;

use super::*;
use crate::config::Listen;

const MAIN_EXAMPLE: &str = include_str!("../../../../config/knockd.toml");
const CLIENT_EXAMPLE: &str = include_str!("../../../../config/clients.d/example.toml");
const DEVICE_EXAMPLE: &str = include_str!("../../../../config/knock.toml");

/// The example with every key in it, as if all defaults were written out.
fn uncommented(example: &str) -> String {
    let key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    example
        .lines()
        .map(|line| if key(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The keys that a table knows, from what is said of a key that it doesn't.
fn known(table: &str) -> BTreeSet<String> {
    let text = format!("{table}\nzzzzzzzz = 1\n");
    let folder = match table {
        "[[client]]" => Folder::with_clients(MAIN, &text),
        _ => Folder::new(&text),
    };
    let mistakes = folder.mistakes();
    let said = mistakes.iter().find(|said| said.contains("unknown key")).unwrap();
    let (_, keys) = said.rsplit_once("write one of ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

/// The keys that a table of an example has.
fn has(table: &toml::Table) -> BTreeSet<String> {
    table.keys().cloned().collect()
}

#[test]
fn the_examples_are_sound_as_they_come() {
    let folder = Folder::with_clients(MAIN_EXAMPLE, CLIENT_EXAMPLE);
    assert_eq!(folder.mistakes(), [""; 0]);
    assert!(folder.load().unwrap().config.clients.is_empty());
}

#[test]
fn the_defaults_that_the_example_shows_are_those_there_are() {
    let shown = Folder::new(&uncommented(MAIN_EXAMPLE)).load().unwrap().config;
    let real = Folder::new(MAIN).load().unwrap().config;
    assert_eq!(shown.listen.addresses(), Listen::default().addresses());
    assert_eq!((shown.state, shown.control), (real.state, real.control));
    assert_eq!(shown.clients_dir.file_name(), real.clients_dir.file_name());
    assert_eq!(shown.allow, real.allow);
    assert_eq!(shown.policy.realm, real.policy.realm);
    assert_eq!(shown.policy.clock_skew, real.policy.clock_skew);
    assert_eq!(shown.policy.grant, real.policy.grant);
    assert_eq!(shown.policy.replay, real.policy.replay);
    assert_eq!(shown.policy.services, real.policy.services);
    assert_eq!(shown.metrics, real.metrics);
}

#[test]
fn the_example_of_a_client_becomes_one_with_a_key_of_its_own() {
    let text = uncommented(CLIENT_EXAMPLE);
    assert_eq!(Folder::with_clients(MAIN, &text).mistakes().len(), 2);
    let text = text.replacen('…', KEYS[0], 1).replacen('…', KEYS[1], 1);
    let folder = Folder::with_clients(MAIN, &text);
    assert_eq!(folder.mistakes(), [""; 0]);
    assert_eq!(folder.load().unwrap().config.clients.len(), 1);
}

#[test]
fn every_key_there_is_stands_in_an_example() {
    let main: toml::Table = toml::from_str(&uncommented(MAIN_EXAMPLE)).unwrap();
    assert_eq!(has(&main), known(""));
    for table in ["allow", "grant", "replay", "reply", "metrics"] {
        assert_eq!(has(main[table].as_table().unwrap()), known(&format!("[{table}]")), "{table}");
    }
    assert_eq!(has(main["service"][0].as_table().unwrap()), known("[[service]]"));
    let client: toml::Table = toml::from_str(&uncommented(CLIENT_EXAMPLE)).unwrap();
    assert_eq!(has(client["client"][0].as_table().unwrap()), known("[[client]]"));
}

#[test]
fn the_example_for_the_device_has_every_key_of_a_profile() {
    let device: toml::Table = toml::from_str(&uncommented(DEVICE_EXAMPLE)).unwrap();
    let keys = has(device["broker"].as_table().unwrap());
    let expected = [
        "address",
        "clock",
        "counter-file",
        "key",
        "key-file",
        "open-for",
        "port",
        "realm",
        "server",
        "service",
    ];
    assert_eq!(keys, expected.map(str::to_owned).into());
}
