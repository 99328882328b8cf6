//! Clients whose keys are derived from the master key.

use std::{fs, os::unix::fs::PermissionsExt as _};

use data_encoding::HEXLOWER;

use super::*;
use crate::config::load_copy;

/// The first vector of `common/vectors/derived-1.json`.
const MASTER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

fn derived(name: &str, more: &str) -> String {
    format!(
        "[[client]]\nname = \"{name}\"\nkey-from = \"master\"\nservices = [\"mqtts\"]\n{more}\n"
    )
}

#[test]
fn a_derived_key_is_that_of_the_vectors_and_another_generation_is_another_key() {
    let clients = derived("press-17", "") + &derived("press-18", "key-generation = 2");
    let folder = Folder::with_clients(MAIN, &clients);
    folder.write("master.key", MASTER);
    let config = folder.load().unwrap().config;
    let vectors = include_str!("../../../../common/vectors/derived-1.json");
    let [first, second] = &config.clients[..] else { panic!("two clients") };
    assert!(vectors.contains(&HEXLOWER.encode(first.secret.expose())));
    assert!(!vectors.contains(&HEXLOWER.encode(second.secret.expose())));
    assert_eq!(config.derived[&first.name].get(), 1);
    assert_eq!(config.derived[&second.name].get(), 2);
}

#[test]
fn the_master_key_is_asked_for_only_where_a_key_is_derived() {
    let folder = Folder::with_clients(MAIN, &client("own", KEYS[0], ""));
    assert_eq!(folder.mistakes(), [""; 0]);
    folder.write("clients.d/more.toml", &(derived("a", "") + &derived("b", "")));
    let mistakes = folder.mistakes();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].starts_with("master.key: a client has"), "{mistakes:?}");
}

#[test]
fn a_master_key_that_others_can_read_or_that_is_none_is_refused_and_not_shown() {
    let folder = Folder::with_clients(MAIN, &derived("a", ""));
    let path = folder.write("master.key", MASTER);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(folder.mistakes()[0].contains("chmod 0640"), "{:?}", folder.mistakes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(folder.mistakes(), [""; 0]);
    folder.write("master.key", "correct horse\n");
    let mistakes = folder.mistakes();
    assert!(mistakes[0].starts_with("master.key:1: the master key is not base64"), "{mistakes:?}");
    assert!(!mistakes[0].contains("horse"));
}

#[test]
fn a_key_comes_from_one_place() {
    for (entry, what) in [
        (client("a", KEYS[0], "key-from = \"master\""), "there is a key as well"),
        (client("a", KEYS[0], "key-generation = 2"), "counts the keys that are derived"),
        (derived("a", "key-generation = 0"), "not a number from 1"),
        (derived("a", "").replace("master", "mistress"), "neither own nor master"),
        (derived("a", "").replace("master", "own"), "client.key is missing"),
    ] {
        let folder = Folder::with_clients(MAIN, &entry);
        folder.write("master.key", MASTER);
        let mistakes = folder.mistakes();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains(what), "{what}: {mistakes:?}");
    }
}

#[test]
fn a_copy_elsewhere_finds_the_master_key_beside_the_folder_of_the_clients() {
    let real = Folder::with_clients(MAIN, &derived("press-17", ""));
    real.write("master.key", MASTER);
    let copy = Folder::new(&format!("clients = \"{}\"\n{MAIN}", real.clients_dir().display()));
    assert_eq!(copy.mistakes(), [""; 0]);
    // What lies beside the copy goes first.
    copy.write("master.key", "correct horse\n");
    assert!(copy.mistakes()[0].contains("the master key is not base64"));
}

#[test]
fn a_copy_is_checked_as_if_it_were_where_it_is_to_go() {
    let real = Folder::with_clients(MAIN, &derived("press-17", ""));
    real.write("master.key", MASTER);
    let elsewhere =
        Folder::new(&format!("clients = \"clients.d\"\nmaster-key-file = \"master.key\"\n{MAIN}"));
    let load = || load_copy(&elsewhere.main(), &real.main(), &Environment::default());
    assert_eq!(load().unwrap().config.clients.len(), 1);
    elsewhere.write("knockd.toml", "x = 1\n");
    let mistakes = load().err().unwrap();
    assert!(mistakes.iter().all(|mistake| mistake.file == elsewhere.main()));
}
