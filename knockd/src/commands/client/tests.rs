//! The commands on real files, from the command line's words to what is loaded after.

use std::{fs, os::unix::fs::PermissionsExt as _, thread};

use clap::Parser;

use super::*;
use crate::{
    commands::{
        Exit, Format,
        test_support::{Told, run_to_end},
    },
    config::tests::{Folder, KEYS, MAIN, client},
};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ClientCommand,
}

/// A main file with a control socket of its own, at which no daemon listens.
fn main_file() -> String {
    format!("control = \"control.sock\"\n{MAIN}")
}

/// Runs `client` with these words.
fn knockd(folder: &Folder, format: Format, words: &str) -> Told {
    let words = std::iter::once("client").chain(words.split_whitespace());
    let line = Line::try_parse_from(words).unwrap();
    run_to_end(format, |output| run(&line.command, &folder.main(), output))
}

fn names(folder: &Folder) -> Vec<String> {
    folder.load().unwrap().config.clients.iter().map(|client| client.name.to_string()).collect()
}

#[test]
fn an_added_client_is_loaded_as_it_was_asked_for() {
    let folder = Folder::new(&main_file());
    let words = "add press-17 --service mqtts --from 10.3.0.0/16,2001:db8::/32 --address observed \
                 --expires 2999-12-31 --server broker.example.com";
    let told = knockd(&folder, Format::Human, words);
    assert_eq!(told.result, Ok(()));
    let config = folder.load().unwrap().config;
    let [client] = config.clients.as_slice() else { panic!("one client") };
    assert_eq!(client.name.as_str(), "press-17");
    assert_eq!(*client.services, ["mqtts".parse().unwrap()]);
    assert_eq!(client.from, ["10.3.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    assert_eq!(client.address, crate::gate::policy::AddressPolicy::Observed);
    assert_eq!(client.expires.unwrap().as_millis(), 32_503_593_600_000);

    let key = crate::config::secret::to_text(&client.secret);
    let profile: toml::Table = toml::from_str(&told.answer).unwrap();
    let expected = toml::toml! {
        [broker]
        server = "broker.example.com:62201"
        service = "mqtts"
        port = "tcp/8883"
        address = "observed"
    };
    let mut without_key = profile;
    let removed = without_key["broker"].as_table_mut().unwrap().remove("key");
    assert_eq!(removed.unwrap().as_str(), Some(key.as_str()));
    assert_eq!(without_key, expected);
    let file = folder.clients_dir().join("press-17.toml");
    assert_eq!(
        told.notes,
        format!(
            "press-17 is written to {}\nno daemon runs: it takes effect when knockd starts\n",
            file.display()
        )
    );
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_realm_and_several_services_are_in_the_profile_as_the_device_needs_them() {
    let main = format!(
        "realm = 'a\"b\\c'\n{}[[service]]\nname = \"coap\"\nports = [\"udp/5684\"]\n",
        main_file()
    );
    let folder = Folder::new(&main);
    let told = knockd(&folder, Format::Human, "add a --service coap --service mqtts");
    assert_eq!(told.result, Ok(()));
    let profile: toml::Table = toml::from_str(&told.answer).unwrap();
    assert_eq!(profile["broker"]["realm"].as_str(), Some("a\"b\\c"));
    assert_eq!(profile["broker"]["port"].as_str(), Some("tcp/8883"));
    assert!(profile["broker"].get("service").is_none());
    assert!(told.notes.contains("warning: the server"), "{}", told.notes);
}

#[test]
fn json_tells_the_file_and_the_profile() {
    let folder = Folder::new(&main_file());
    let told = knockd(&folder, Format::Json, "add a --service mqtts");
    let answer: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
    assert_eq!((&answer["changed"], &answer["client"]), (&true.into(), &"a".into()));
    assert!(answer["file"].as_str().unwrap().ends_with("/clients.d/a.toml"));
    assert!(toml::from_str::<toml::Table>(answer["profile"].as_str().unwrap()).is_ok());
}

#[test]
fn a_name_that_is_taken_in_any_file_is_refused_with_the_place() {
    let folder = Folder::with_clients(&main_file(), &client("a", KEYS[0], ""));
    let failure = knockd(&folder, Format::Human, "add a --service mqtts").result.unwrap_err();
    assert_eq!(failure.exit, Exit::CantCreat);
    assert!(failure.message.contains("clients.d/clients.toml:1"), "{failure}");
    let failure = knockd(&folder, Format::Human, "add clients --service mqtts").result.unwrap_err();
    assert_eq!(failure.exit, Exit::CantCreat, "{failure}");
    assert_eq!(names(&folder), ["a"]);
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let folder = Folder::new(&main_file());
    for (words, exit, said) in [
        ("add a --service http", Exit::Usage, "name one of mqtts"),
        ("add a --service mqtts,mqtts", Exit::Usage, "twice"),
        ("add a --service mqtts --expires 2020-01-01", Exit::Usage, "in the past"),
    ] {
        let failure = knockd(&folder, Format::Human, words).result.unwrap_err();
        assert_eq!(failure.exit, exit, "{words}");
        assert!(failure.message.contains(said), "{failure}");
    }
    for words in ["add A --service mqtts", "add a", "add a --service mqtts --from 10.0.0.1/8"] {
        let words = std::iter::once("client").chain(words.split_whitespace());
        assert!(Line::try_parse_from(words).is_err());
    }
    assert_eq!(fs::read_dir(folder.clients_dir()).unwrap().count(), 0);
    folder.write("knockd.toml", "x = 1");
    let failure = knockd(&folder, Format::Human, "add a --service mqtts").result.unwrap_err();
    assert_eq!(failure.exit, Exit::Config);
    assert_eq!(fs::read_dir(folder.clients_dir()).unwrap().count(), 0);
}

#[test]
fn mistakes_in_the_entries_of_others_keep_nobody_from_being_added_and_are_told_by_a_check() {
    let folder = Folder::new(&main_file());
    folder.write("clients.d/broken.toml", "x = 1");
    assert_eq!(knockd(&folder, Format::Human, "add a --service mqtts").result, Ok(()));
    assert_eq!(folder.mistakes().len(), 1);
}

#[test]
fn a_profile_for_a_file_is_for_its_owner_alone_and_replaces_none_that_is_there() {
    let folder = Folder::new(&main_file());
    let out = folder.main().with_file_name("press-17.toml");
    let words = format!("add press-17 --service mqtts --server b --out {}", out.display());
    let told = knockd(&folder, Format::Json, &words);
    assert_eq!(told.result, Ok(()));
    let key = key_of(&folder, "press-17");
    assert!(!told.answer.contains(&key) && !told.notes.contains(&key));
    let answer: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
    assert_eq!((&answer["profile"], &answer["out"]), (&().into(), &out.to_str().unwrap().into()));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o600);
    let profile = fs::read_to_string(&out).unwrap();
    assert!(profile.contains(&key), "the key");

    let rotate = format!("rotate press-17 --server b --out {}", out.display());
    for words in [&words.replace("press-17 ", "gate-3 "), &rotate] {
        let failure = knockd(&folder, Format::Human, words).result.unwrap_err();
        assert_eq!(failure.exit, Exit::CantCreat, "{words}: {failure}");
    }
    assert_eq!(fs::read_to_string(&out).unwrap(), profile);
    assert_eq!(names(&folder), ["press-17"]);
    assert_eq!(key_of(&folder, "press-17"), key);
    fs::remove_file(&out).unwrap();
    assert_eq!(knockd(&folder, Format::Human, &rotate).result, Ok(()));
    assert!(fs::read_to_string(&out).unwrap().contains(&key_of(&folder, "press-17")));
}

#[test]
fn a_key_that_is_printed_into_a_file_that_others_can_read_is_warned_of() {
    let folder = Folder::new(&main_file());
    for (name, mode, warned) in
        [("a", Some(0o644), true), ("b", Some(0o600), false), ("c", None, false)]
    {
        let words = format!("add {name} --service mqtts --server b");
        let line = std::iter::once("client").chain(words.split_whitespace());
        let command = Line::try_parse_from(line).unwrap().command;
        let (mut answer, mut notes) = (Vec::new(), Vec::new());
        let mut output = Output::new(&mut answer, &mut notes, Format::Human).to_file(mode);
        run(&command, &folder.main(), &mut output).unwrap();
        let notes = String::from_utf8(notes).unwrap();
        assert_eq!(
            notes.contains("others can read it") && notes.contains("--out"),
            warned,
            "{notes}"
        );
    }
}

#[test]
fn a_client_whose_profile_cannot_be_printed_is_not_added() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let folder = Folder::new(&main_file());
    let line = Line::try_parse_from(["client", "add", "a", "--service", "mqtts"]).unwrap();
    let (mut answer, mut notes) = (Closed, Vec::new());
    let mut output = Output::new(&mut answer, &mut notes, Format::Human);
    let failure = run(&line.command, &folder.main(), &mut output).unwrap_err();
    assert_eq!(failure.exit, Exit::IoErr);
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn of_many_that_add_at_once_each_name_is_added_once() {
    let folder = Folder::new(&main_file());
    let added = thread::scope(|scope| {
        let add = |index: usize| {
            let name = format!("add c{} --service mqtts", index % 8);
            knockd(&folder, Format::Human, &name).result.is_ok()
        };
        let threads: Vec<_> = (0..16).map(|index| scope.spawn(move || add(index))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).filter(|ok| *ok).count()
    });
    assert_eq!(added, 8);
    assert_eq!(names(&folder).len(), 8);
    assert_eq!(fs::read_dir(folder.clients_dir()).unwrap().count(), 8);
}

#[test]
fn the_list_tells_all_but_the_keys() {
    let more = "from = [\"10.3.0.0/16\"]\naddress = \"observed\"\nexpires = 2027-12-31T00:00:00Z\n\
                enabled = false";
    let text = client("press-17", KEYS[0], more) + &client("b", KEYS[1], "");
    let folder = Folder::with_clients(&main_file(), &text);
    let told = knockd(&folder, Format::Human, "list");
    let lines: Vec<Vec<_>> =
        told.answer.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[1][..6],
        ["press-17", "mqtts", "10.3.0.0/16", "observed", "2027-12-31T00:00:00Z", "no"]
    );
    assert_eq!(lines[2][..6], ["b", "mqtts", "anywhere", "strict", "never", "yes"]);

    let json = knockd(&folder, Format::Json, "list").answer;
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["clients"][0]["expires"], "2027-12-31T00:00:00Z");
    assert_eq!(answer["clients"][1]["from"], serde_json::json!([]));
    assert_eq!(answer["clients"][1]["enabled"], true);
    for key in KEYS {
        assert!(!told.answer.contains(&key[..8]) && !json.contains(&key[..8]));
    }
}

#[test]
fn a_removed_client_leaves_its_neighbours_byte_for_byte_and_the_file_its_mode() {
    let (a, b) = (client("a", KEYS[0], "# mine\n"), client("b", KEYS[1], ""));
    let folder = Folder::with_clients(&main_file(), &format!("{a}{b}"));
    let file = folder.clients_dir().join("clients.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(knockd(&folder, Format::Human, "remove a").result, Ok(()));
    assert_eq!(fs::read_to_string(&file).unwrap(), b);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o400);

    let told = knockd(&folder, Format::Json, "remove b");
    let answer: serde_json::Value = serde_json::from_str(&told.answer).unwrap();
    assert_eq!((&answer["changed"], &answer["client"]), (&true.into(), &"b".into()));
    assert!(!file.exists());
    let failure = knockd(&folder, Format::Human, "remove b").result.unwrap_err();
    assert_eq!(failure.exit, Exit::NoInput);
    assert!(failure.message.contains("knockd client list"), "{failure}");
}

#[test]
fn a_file_behind_a_link_is_changed_where_it_is() {
    let folder = Folder::new(&main_file());
    let two = client("a", KEYS[0], "") + &client("b", KEYS[1], "");
    let target = folder.write("kept.toml", &two);
    let link = folder.clients_dir().join("link.toml");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(knockd(&folder, Format::Human, "remove a").result, Ok(()));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), client("b", KEYS[1], ""));
}

fn answer(told: &Told) -> serde_json::Value {
    serde_json::from_str(&told.answer).unwrap()
}

fn key_of(folder: &Folder, name: &str) -> String {
    let clients = folder.load().unwrap().config.clients;
    let client = clients.iter().find(|client| client.name.as_str() == name).unwrap();
    crate::config::secret::to_text(&client.secret).to_string()
}

#[test]
fn a_rotated_client_has_a_new_key_and_its_old_one_until_the_overlap_is_over() {
    let (a, b) = (client("a", KEYS[0], "# mine\n"), client("b", KEYS[1], ""));
    let folder = Folder::with_clients(&main_file(), &format!("{a}{b}"));
    let file = folder.clients_dir().join("clients.toml");
    let told = knockd(&folder, Format::Json, "rotate a --overlap 7d --server broker");
    let told = answer(&told);
    assert_eq!((&told["changed"], &told["client"]), (&true.into(), &"a".into()));
    let loaded = folder.load().unwrap().config.clients;
    let old = loaded[0].old_key.as_ref().unwrap();
    assert_eq!(*crate::config::secret::to_text(&old.secret), KEYS[0]);
    let new = key_of(&folder, "a");
    let profile: toml::Table = toml::from_str(told["profile"].as_str().unwrap()).unwrap();
    assert_eq!(profile["broker"]["key"].as_str(), Some(new.as_str()));
    let until = told["old-key-until"].as_str().unwrap().to_owned();
    assert_eq!(old.until, until.parse::<crate::commands::moment::Moment>().unwrap().into());

    // Every other byte is as it was, and a rotation that ends all but the new key takes the old one out again.
    let added = format!("old-key = \"{}\"\nold-key-until = {until}\n", KEYS[0]);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.replace(&new, KEYS[0]).replace(&added, ""), format!("{a}{b}"));
    assert_eq!(knockd(&folder, Format::Human, "rotate a --overlap 0s").result, Ok(()));
    let newest = key_of(&folder, "a");
    assert_eq!(fs::read_to_string(&file).unwrap().replace(&newest, KEYS[0]), format!("{a}{b}"));
}

#[test]
fn a_second_rotation_within_the_overlap_is_refused_unless_it_says_what_becomes_of_the_older_key() {
    let folder = Folder::with_clients(&main_file(), &client("a", KEYS[0], ""));
    assert_eq!(knockd(&folder, Format::Human, "rotate a").result, Ok(()));
    let first = key_of(&folder, "a");
    let failure = knockd(&folder, Format::Human, "rotate a --overlap 1d").result.unwrap_err();
    assert_eq!(failure.exit, Exit::TempFail);
    assert!(failure.message.contains("--drop-older"), "{failure}");
    assert_eq!(key_of(&folder, "a"), first);
    assert_eq!(knockd(&folder, Format::Human, "rotate a --drop-older").result, Ok(()));
    let old = folder.load().unwrap().config.clients[0].old_key.clone().unwrap();
    assert_eq!(*crate::config::secret::to_text(&old.secret), first);

    // One that is over is in nobody's way.
    let past = client(
        "a",
        KEYS[0],
        &format!("old-key = \"{}\"\nold-key-until = 2020-01-01T00:00:00Z", KEYS[1]),
    );
    let folder = Folder::with_clients(&main_file(), &past);
    assert_eq!(knockd(&folder, Format::Human, "rotate a").result, Ok(()));
    let failure = knockd(&folder, Format::Human, "rotate b").result.unwrap_err();
    assert_eq!(failure.exit, Exit::NoInput);
}

#[test]
fn a_client_whose_new_profile_cannot_be_printed_keeps_its_key() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let text = client("a", KEYS[0], "");
    let folder = Folder::with_clients(&main_file(), &text);
    let line = Line::try_parse_from(["client", "rotate", "a"]).unwrap();
    let (mut answer, mut notes) = (Closed, Vec::new());
    let mut output = Output::new(&mut answer, &mut notes, Format::Human);
    let failure = run(&line.command, &folder.main(), &mut output).unwrap_err();
    assert_eq!(failure.exit, Exit::IoErr);
    assert_eq!(fs::read_to_string(folder.clients_dir().join("clients.toml")).unwrap(), text);
}

#[test]
fn what_is_done_already_says_that_nothing_has_changed_and_changes_nothing() {
    let text = client("a", KEYS[0], "") + &client("b", KEYS[1], "enabled = false # gone fishing\n");
    let folder = Folder::with_clients(&main_file(), &text);
    let file = folder.clients_dir().join("clients.toml");
    for (words, changed, becomes) in [
        ("add a --service mqtts --if-missing", false, text.clone()),
        ("enable a", false, text.clone()),
        ("disable b", false, text.clone()),
        ("remove c --if-present", false, text.clone()),
        ("enable b", true, text.replace("enabled = false", "enabled = true")),
        ("enable b", false, text.replace("enabled = false", "enabled = true")),
        ("disable b", true, text.clone()),
        ("disable a", true, text.replacen("=\"\n", "=\"\nenabled = false\n", 1)),
        ("disable a", false, text.replacen("=\"\n", "=\"\nenabled = false\n", 1)),
    ] {
        let told = knockd(&folder, Format::Json, words);
        assert_eq!(told.result, Ok(()), "{words}");
        assert_eq!(answer(&told)["changed"], changed, "{words}");
        assert_eq!(fs::read_to_string(&file).unwrap(), becomes, "{words}");
        assert_eq!(knockd(&folder, Format::Human, "list").result, Ok(()));
    }
    for words in ["disable c", "enable c", "remove c", "show c"] {
        let failure = knockd(&folder, Format::Human, words).result.unwrap_err();
        assert_eq!(failure.exit, Exit::NoInput, "{words}");
    }
}

#[test]
fn a_client_that_has_no_header_of_its_own_is_changed_by_hand_alone() {
    let inline =
        format!("client = [{{ name = \"a\", key = \"{}\", services = [\"mqtts\"] }}]\n", KEYS[0]);
    let folder = Folder::with_clients(&main_file(), &inline);
    for words in ["disable a", "rotate a"] {
        let failure = knockd(&folder, Format::Human, words).result.unwrap_err();
        assert_eq!(failure.exit, Exit::DataErr, "{failure}");
        assert!(failure.message.contains("clients.toml:1"), "{failure}");
    }
}

#[test]
fn one_client_is_shown_with_all_but_its_keys() {
    let more = format!(
        "from = [\"10.3.0.0/16\"]\nold-key = \"{}\"\nold-key-until = 2027-12-31T00:00:00Z",
        KEYS[1]
    );
    let folder = Folder::with_clients(&main_file(), &client("press-17", KEYS[0], &more));
    let human = knockd(&folder, Format::Human, "show press-17").answer;
    for part in ["10.3.0.0/16", "until 2027-12-31T00:00:00Z", "clients.toml:1", "no daemon runs"] {
        assert!(human.contains(part), "{part}: {human}");
    }
    let json = knockd(&folder, Format::Json, "show press-17");
    let shown = answer(&json);
    assert_eq!((&shown["name"], &shown["daemon"]), (&"press-17".into(), &serde_json::Value::Null));
    assert_eq!(shown["old-key-until"], "2027-12-31T00:00:00Z");
    for key in KEYS {
        assert!(!human.contains(&key[..8]) && !json.answer.contains(&key[..8]));
    }
}

#[test]
fn of_many_that_change_one_file_at_once_every_change_is_made_and_none_undone() {
    let key = |number: u8| {
        data_encoding::BASE64.encode(&{
            let mut key = [number; 32];
            key[0] = !number;
            key
        })
    };
    let entries: Vec<String> =
        (1..=12).map(|number| client(&format!("c{number}"), &key(number), "")).collect();
    let folder = Folder::with_clients(&main_file(), &entries.concat());
    thread::scope(|scope| {
        for number in 1..=12 {
            let folder = &folder;
            scope.spawn(move || {
                let words = match number % 3 {
                    0 => format!("disable c{number}"),
                    1 => format!("rotate c{number}"),
                    _ => format!("remove c{number}"),
                };
                assert_eq!(knockd(folder, Format::Human, &words).result, Ok(()), "{words}");
            });
        }
    });
    let clients = folder.load().unwrap().config.clients;
    assert_eq!(clients.len(), 8);
    for client in clients {
        let number: u8 = client.name.as_str()[1..].parse().unwrap();
        let is_disabled = client.standing == crate::gate::policy::Standing::Disabled;
        assert_eq!(is_disabled, number.is_multiple_of(3), "{number}");
        assert_eq!(client.old_key.is_some(), number % 3 == 1, "{number}");
    }
}
