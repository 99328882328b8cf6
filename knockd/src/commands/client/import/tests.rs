//! Imports of real files: what changes, what stays, and what is refused.

use std::{fs, os::unix::fs::PermissionsExt as _};

use clap::Parser;
use proptest::prelude::*;

use crate::{
    commands::{
        Exit, Format,
        client::{ClientCommand, run},
        test_support::{Told, run_to_end},
    },
    config::tests::{Folder, KEYS, MAIN, client},
};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ClientCommand,
}

/// Runs `client` with these words.
fn knockd(folder: &Folder, words: &[&str]) -> Told {
    let line = Line::try_parse_from([&["client"], words].concat()).unwrap();
    run_to_end(Format::Json, |output| run(&line.command, &folder.main(), output))
}

fn import(folder: &Folder, name: &str, table: &str, more: &[&str]) -> Told {
    let file = folder.write(name, table);
    knockd(folder, &[&["import", file.to_str().unwrap()], more].concat())
}

/// How many are added, updated and unchanged.
fn counts(told: &Told) -> [u64; 3] {
    assert_eq!(told.result, Ok(()));
    let answer: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
    ["added", "updated", "unchanged"].map(|count| answer[count].as_u64().unwrap())
}

fn main_file() -> String {
    format!(
        "control = \"control.sock\"\n{MAIN}[[service]]\nname = \"coap\"\nports = [\"udp/5684\"]\n"
    )
}

#[test]
fn what_an_import_does_not_change_stays_to_the_byte_and_keeps_its_key() {
    let kept = format!("# Hall 7.\n{}# Hall 8.\n", client("a", KEYS[0], "# leaks"));
    let folder = Folder::new(&main_file());
    let path = folder.write("clients.d/imported.toml", &(kept.clone() + &client("b", KEYS[1], "")));
    let told = import(&folder, "t.csv", "name,services\nb,coap\nc,mqtts coap\n", &[]);
    assert_eq!(counts(&told), [1, 1, 0]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&kept), "{text}");
    assert!(text.contains(KEYS[1]), "the key of b");
    let config = folder.load().unwrap().config;
    let services = |at: usize| config.clients[at].services.iter().map(ToString::to_string);
    assert!(services(1).eq(["coap"]) && services(2).eq(["mqtts", "coap"]));
}

#[test]
fn a_rehearsal_tells_the_same_and_writes_nothing() {
    let folder = Folder::new(&main_file());
    let profiles = folder.clients_dir().with_file_name("profiles");
    let more = ["--dry-run", "--server", "b", "--profiles", profiles.to_str().unwrap()];
    let told = import(&folder, "t.jsonl", "{\"name\":\"a\",\"services\":[\"mqtts\"]}\n", &more);
    assert_eq!(counts(&told), [1, 0, 0]);
    assert!(!profiles.exists());
    assert_eq!(fs::read_dir(folder.clients_dir()).unwrap().count(), 0);
}

#[test]
fn profiles_go_to_no_folder_that_others_can_use_and_nobody_is_enrolled_then() {
    let folder = Folder::new(&main_file());
    let open = folder.clients_dir().with_file_name("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
    let missing = open.join("no/such");
    for (path, exit) in [(&open, Exit::NoPerm), (&missing, Exit::CantCreat)] {
        let more = ["--server", "b", "--profiles", path.to_str().unwrap()];
        let told = import(&folder, "t.csv", "name,services\na,mqtts\n", &more);
        assert_eq!(told.result.unwrap_err().exit, exit, "{}", path.display());
        assert_eq!(fs::read_dir(folder.clients_dir()).unwrap().count(), 0);
    }
}

#[test]
fn a_key_that_is_given_is_taken_unless_another_client_has_it_and_is_never_shown() {
    let folder = Folder::with_clients(&main_file(), &client("a", KEYS[0], ""));
    let table = |key: &str| format!("name,services,key\nb,mqtts,\nc,mqtts,{key}\n");
    let failure = import(&folder, "t.csv", &table(KEYS[0]), &[]).result.unwrap_err();
    assert_eq!(failure.exit, Exit::DataErr);
    assert!(failure.message.contains("t.csv:3: "), "{failure}");
    assert!(!failure.message.contains(KEYS[0]), "{failure}");
    let failure = import(&folder, "t.csv", &table(&KEYS[0][1..]), &[]).result.unwrap_err();
    assert!(!failure.message.contains(&KEYS[0][1..9]), "{failure}");
    assert_eq!(counts(&import(&folder, "t.csv", &table(KEYS[1]), &[])), [2, 0, 0]);
    assert_eq!(counts(&import(&folder, "t.csv", &table(KEYS[1]), &[])), [0, 0, 2]);
}

#[test]
fn however_many_mistakes_there_are_the_first_are_told_and_the_rest_counted() {
    let folder = Folder::new(&main_file());
    let table = "name,services\n".to_owned() + &"Bad,mqtts\n".repeat(100);
    let failure = import(&folder, "t.csv", &table, &[]).result.unwrap_err();
    assert_eq!(failure.message.lines().count(), 22, "{failure}");
    assert!(failure.message.contains("and 80 mistakes more"), "{failure}");
}

#[test]
fn a_derived_client_that_is_rotated_has_a_key_of_its_own_and_the_derived_one_until_then() {
    let folder = Folder::new(&main_file());
    folder.write("master.key", &format!("{}\n", KEYS[0]));
    let table = "name,services,key-from,key-generation\na,mqtts,master,3\n";
    assert_eq!(counts(&import(&folder, "t.csv", table, &[])), [1, 0, 0]);
    assert_eq!(counts(&import(&folder, "t.csv", table, &[])), [0, 0, 1]);
    let derived = folder.load().unwrap().config.clients[0].secret.clone();
    assert_eq!(
        knockd(&folder, &["rotate", "a", "--overlap", "1h", "--server", "b"]).result,
        Ok(())
    );
    let config = folder.load().unwrap().config;
    assert!(config.derived.is_empty());
    assert!(!config.clients[0].secret.is_same(&derived));
    assert!(config.clients[0].old_key.as_ref().unwrap().secret.is_same(&derived));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_exported_is_imported_without_a_change_and_elsewhere_becomes_the_same_table(
        rows in prop::collection::btree_map(
            "[a-z0-9][a-z0-9._-]{0,20}",
            (
                prop::sample::select(vec!["mqtts", "coap", "mqtts coap", "coap mqtts"]),
                prop::sample::select(vec!["", "10.3.0.0/16", "10.0.0.0/8 2001:db8::/32"]),
                prop::sample::select(vec!["", "2001-01-01", "2999-12-31T23:59:59.5Z"]),
                prop::sample::select(vec!["", "strict", "observed"]),
                prop::sample::select(vec!["", "utc", "counter"]),
                prop::sample::select(vec!["", "true", "false"]),
                prop::sample::select(vec![",", "own,", "own,1", "master,", "master,4294967295"]),
            ),
            0..6,
        ),
        format in prop::sample::select(vec!["csv", "jsonl"]),
    ) {
        let mut table = "name,services,from,expiry,address,clock,enabled,key-from,key-generation\n".to_owned();
        for (name, (services, from, expires, address, clock, enabled, key)) in &rows {
            table += &format!("{name},{services},{from},{expires},{address},{clock},{enabled},{key}\n");
        }
        let count = u64::try_from(rows.len()).unwrap();
        let (one, other) = (Folder::new(&main_file()), Folder::new(&main_file()));
        for folder in [&one, &other] {
            folder.write("master.key", &format!("{}\n", KEYS[0]));
        }
        prop_assert_eq!(counts(&import(&one, "t.csv", &table, &[])), [count, 0, 0]);
        let exported = knockd(&one, &["export", "--format", format]).answer;
        let name = format!("t.{format}");
        prop_assert_eq!(counts(&import(&one, &name, &exported, &[])), [0, 0, count]);
        prop_assert_eq!(counts(&import(&other, &name, &exported, &[])), [count, 0, 0]);
        prop_assert_eq!(knockd(&other, &["export", "--format", format]).answer, exported);
    }
}

/// What an import says on failing.
fn said(told: Told, exit: Exit) -> String {
    let failure = told.result.unwrap_err();
    assert_eq!(failure.exit, exit, "{failure}");
    failure.message
}

#[test]
fn a_table_that_went_through_a_spreadsheet_is_read() {
    let folder = Folder::new(&main_file());
    let tables = [
        (
            "a.csv",
            "\u{feff}Name;Services;Enabled;Networks\r\npress-1;mqtts;TRUE;10.3.0.0/16\r\n;;;\r\n",
        ),
        ("b.csv", "\"NAME\"\t\"Services\"\t\"Key From\"\npress-2\t\"mqtts\ncoap\"\tOwn\n"),
        ("c.csv", "sep=;\nname;services;enabled;;\n\u{a0}'press-3;mqtts\u{a0}coap;FALSE;;\n"),
        ("d.csv", "name,services,expires\n\u{201c}press-4\u{201d},mqtts;coap,2099-12-31\n"),
        ("e.jsonl", "\u{feff}{\"Name\": \"press-5\", \"services\": [\"mqtts\"]}\r\n"),
    ];
    for (name, table) in tables {
        assert_eq!(counts(&import(&folder, name, table, &[])), [1, 0, 0], "{name}");
    }
    let clients = folder.load().unwrap().config.clients;
    let services: Vec<_> = clients.iter().map(|client| client.services.len()).collect();
    assert_eq!(services, [1, 2, 2, 2, 1]);
    assert_eq!(clients[2].standing, crate::gate::policy::Standing::Disabled);
}

#[test]
fn what_a_spreadsheet_has_spoilt_is_refused_with_its_line_its_column_and_what_to_write() {
    let folder = Folder::new(&main_file());
    for (table, at, what) in [
        ("name;services;Freigabe\na;mqtts;x\n", ":1: ", "column 3 is none of the fields"),
        ("name;services;\na;mqtts;x\n", ":2: ", "column 3 has something in it"),
        ("Name;name\n", ":1: ", "column 2 is a second one of name"),
        ("name;services;enabled\na;mqtts;WAHR\n", ":2: ", "enabled is wrong: write true or false"),
        ("name;services;expires\na;mqtts;31.12.2027\n", ":2: ", "2027-12-31 for the start"),
        ("name;services;expires\na;mqtts;46752\n", ":2: ", "expires is wrong"),
        (
            "name;services\nPress-17;mqtts\n",
            ":2: ",
            "name is wrong: a client's name is 1 to 64 of a-z",
        ),
        ("sep=;\nname;services;networks\na;mqtts;192.168.010.005/32\n", ":3: ", "leading zeros"),
        ("name;services;key-from;key-generation\na;mqtts;own;1,5\n", ":2: ", "whole number"),
    ] {
        let said = said(import(&folder, "t.csv", table, &[]), Exit::DataErr);
        assert!(said.contains(at) && said.contains(what), "{table}: {said}");
    }
    let utf16: Vec<u8> = "\u{feff}name\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin = b"name,services\nm\xfcller,mqtts\n".to_vec();
    for (bytes, what) in [(utf16, "this is UTF-16"), (latin, "column 1 has a byte")] {
        let file = folder.write("t.csv", "");
        fs::write(&file, bytes).unwrap();
        let said = said(knockd(&folder, &["import", file.to_str().unwrap()]), Exit::DataErr);
        assert!(said.contains(what) && said.contains("CSV UTF-8"), "{said}");
    }
}

#[test]
fn a_table_with_keys_that_others_can_read_and_any_table_that_others_can_write_is_refused() {
    let folder = Folder::new(&main_file());
    let with_key = format!("name,services,key\na,mqtts,{}\n", KEYS[0]);
    let without = "name,services\nb,mqtts\n".to_owned();
    let emptied = "name,services,key\nc,mqtts,\n".to_owned();
    for (table, mode, refused) in [
        (&with_key, 0o644, true),
        (&with_key, 0o666, true),
        (&without, 0o666, true),
        (&without, 0o664, true),
        (&without, 0o644, false),
        (&emptied, 0o644, false),
        (&with_key, 0o640, false),
    ] {
        let file = folder.write("t.csv", table);
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let told = knockd(&folder, &["import", file.to_str().unwrap()]);
        if refused {
            let said = said(told, Exit::NoPerm);
            assert!(said.contains("run `chmod") && !said.contains(KEYS[0]), "{said}");
        } else {
            assert_eq!(counts(&told), [1, 0, 0], "{mode:o}");
        }
    }
}

#[test]
fn a_pipe_in_place_of_a_table_is_refused_at_once() {
    let folder = Folder::new(&main_file());
    let pipe = folder.main().with_file_name("t.csv");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let said = said(knockd(&folder, &["import", pipe.to_str().unwrap()]), Exit::DataErr);
    assert!(said.contains("on standard input"), "{said}");
}
