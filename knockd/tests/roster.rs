//! A change of the clients' files: exactly those clients change, their grants follow, and a mistake changes
//! nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use common::{ClientKeys, Day, Realm, Secret, ServiceName, Timestamp};
use data_encoding::BASE64;
use knockd::{
    config::{
        Environment, Located, load_located,
        reload::{Places, stamps},
    },
    gate::directory::{Directory, Progress},
    roster::{Applied, NotApplied, Roster},
};
use tempfile::TempDir;

const NOON: u64 = 1_790_000_000_000;

struct Host {
    temporary: TempDir,
    directory: Directory,
    roster: Roster,
}

fn today() -> Day {
    Day::of(Timestamp::from_millis(NOON)).unwrap()
}

fn anywhere() -> IpAddr {
    Ipv4Addr::new(10, 77, 0, 2).into()
}

fn bytes(seed: u8) -> [u8; 32] {
    let mut bytes = [seed; 32];
    bytes[0] = !seed;
    bytes
}

fn keys(seed: u8) -> ClientKeys {
    ClientKeys::derive(&Secret::new(bytes(seed)).unwrap(), &Realm::default())
}

fn entry(name: &str, seed: u8) -> String {
    let key = BASE64.encode(&bytes(seed));
    format!("[[client]]\nname = \"{name}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n")
}

fn write(folder: &Path, name: &str, text: &str) {
    // Under another name first, as the commands do: a new file is told by its inode.
    let (fresh, path) = (folder.join(format!(".{name}")), folder.join(name));
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o640)).unwrap();
    fs::rename(fresh, path).unwrap();
}

impl Host {
    fn new(files: &[(&str, String)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let main = temporary.path().join("knockd.toml");
        fs::write(&main, "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n").unwrap();
        fs::set_permissions(&main, fs::Permissions::from_mode(0o644)).unwrap();
        let folder = temporary.path().join("clients.d");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        for (name, text) in files {
            write(&folder, name, text);
        }
        let stamps = stamps(&folder).unwrap();
        let Located { config, origins } = load_located(&main, &Environment::default()).unwrap();
        let services: Vec<ServiceName> =
            config.policy.services.iter().map(|service| service.name).collect();
        let mut directory =
            Directory::new(config.policy.services, config.clients, &config.policy.realm);
        let progress = directory.prepare(today(), usize::MAX, &mut Vec::new());
        assert_eq!(progress, Progress::Complete);
        let realm = config.policy.realm;
        let places = Places { main, environment: Environment::default(), folder };
        let roster = Roster::new(places, services, realm, &stamps, &origins, &directory);
        Self { temporary, directory, roster }
    }

    fn main(&self) -> PathBuf {
        self.temporary.path().join("knockd.toml")
    }

    fn folder(&self) -> PathBuf {
        self.temporary.path().join("clients.d")
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.folder(), name, text);
    }

    fn reload(&mut self) -> Result<Applied, NotApplied> {
        let sound = self.roster.check(self.roster.reading().read()?, &self.directory)?;
        assert_eq!(sound.clients(&self.directory), {
            let located = load_located(&self.main(), &Environment::default()).unwrap();
            located.config.clients.len()
        });
        self.directory.set_services(sound.settings().policy.services.clone());
        Ok(self.roster.apply(sound, &mut self.directory))
    }

    /// Whose packets these keys make, yesterday, today and tomorrow alike.
    fn owner(&self, seed: u8) -> Option<String> {
        let days = [today().previous().unwrap(), today(), today().next().unwrap()];
        let owners: Vec<Option<String>> = days
            .iter()
            .map(|day| {
                let (client, _, found) = self.directory.find(keys(seed).tag(*day))?;
                assert_eq!(found, *day);
                Some(self.directory.name(client).to_owned())
            })
            .collect();
        assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        owners[0].clone()
    }
}

fn counts(applied: &Applied) -> [usize; 3] {
    [applied.added.len(), applied.changed.len(), applied.removed.len()]
}

#[test]
fn where_nothing_has_changed_nothing_is_read_and_nothing_changes() {
    let mut host = Host::new(&[("a.toml", entry("one", 1)), ("b.toml", entry("two", 2))]);
    assert_eq!(host.reload().unwrap(), Applied::default());
    host.write("a.toml", &(entry("one", 1) + "# a comment\n"));
    assert_eq!(host.reload().unwrap(), Applied::default());
}

#[test]
fn a_new_file_adds_its_clients_and_a_file_that_is_gone_removes_them() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    host.write("b.toml", &(entry("two", 2) + &entry("three", 3)));
    assert_eq!(counts(&host.reload().unwrap()), [2, 0, 0]);
    assert_eq!(host.owner(3).as_deref(), Some("three"));
    fs::remove_file(host.folder().join("b.toml")).unwrap();
    assert_eq!(counts(&host.reload().unwrap()), [0, 0, 2]);
    assert_eq!((host.owner(2), host.owner(3), host.directory.len()), (None, None, 1));
    assert_eq!(host.owner(1).as_deref(), Some("one"));
}

#[test]
fn a_client_that_comes_back_is_known_again() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    fs::remove_file(host.folder().join("a.toml")).unwrap();
    assert_eq!(counts(&host.reload().unwrap()), [0, 0, 1]);
    host.write("a.toml", &entry("one", 1));
    assert_eq!(counts(&host.reload().unwrap()), [1, 0, 0]);
    assert_eq!(host.owner(1).as_deref(), Some("one"));
}

#[test]
fn a_client_with_a_new_key_keeps_its_id_and_its_old_key_is_no_ones() {
    let mut host = Host::new(&[("a.toml", entry("one", 1) + &entry("two", 2))]);
    let before = host.directory.clients_by_name()["one"];
    host.write("a.toml", &(entry("one", 9) + &entry("two", 2)));
    assert_eq!(counts(&host.reload().unwrap()), [0, 1, 0]);
    assert_eq!((host.owner(1), host.owner(9).as_deref()), (None, Some("one")));
    assert_eq!(host.directory.clients_by_name()["one"], before);
}

#[test]
fn two_clients_of_a_file_can_change_keys_with_each_other() {
    let mut host = Host::new(&[("a.toml", entry("one", 1) + &entry("two", 2))]);
    host.write("a.toml", &(entry("one", 2) + &entry("two", 1)));
    assert_eq!(counts(&host.reload().unwrap()), [0, 2, 0]);
    assert_eq!((host.owner(1).as_deref(), host.owner(2).as_deref()), (Some("two"), Some("one")));
}

#[test]
fn a_client_that_moves_to_another_file_stays_who_it_is() {
    let mut host = Host::new(&[("a.toml", entry("one", 1)), ("b.toml", entry("two", 2))]);
    host.write("b.toml", &(entry("two", 2) + &entry("one", 1)));
    fs::remove_file(host.folder().join("a.toml")).unwrap();
    assert_eq!(host.reload().unwrap(), Applied::default());
    assert_eq!(host.owner(1).as_deref(), Some("one"));
    fs::remove_file(host.folder().join("b.toml")).unwrap();
    assert_eq!(counts(&host.reload().unwrap()), [0, 0, 2]);
}

#[test]
fn a_disabled_client_keeps_its_tags_and_may_hold_nothing() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    host.write("a.toml", &(entry("one", 1) + "enabled = false\n"));
    assert_eq!(counts(&host.reload().unwrap()), [0, 1, 0]);
    assert_eq!(host.owner(1).as_deref(), Some("one"));
    let (_, entry, _) = host.directory.find(keys(1).tag(today())).unwrap();
    let service = host.directory.service_named("mqtts".parse().unwrap()).unwrap();
    assert!(!entry.may_hold(service, anywhere(), Timestamp::from_millis(NOON)));
}

#[test]
fn a_mistake_in_any_file_leaves_everything_as_it_was() {
    let mut host = Host::new(&[("a.toml", entry("one", 1)), ("b.toml", entry("two", 2))]);
    host.write("a.toml", &entry("one", 9));
    for (text, expected) in [
        ("[[client]]\nname = \"three\"\n".to_owned(), "b.toml:1"),
        (entry("one", 3), "b.toml"),
        (entry("two", 9), "b.toml"),
    ] {
        host.write("b.toml", &text);
        let error = host.reload().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(host.owner(1).as_deref(), Some("one"));
        assert_eq!((host.owner(9), host.owner(2).as_deref()), (None, Some("two")));
    }
    host.write("b.toml", &entry("two", 2));
    assert_eq!(counts(&host.reload().unwrap()), [0, 1, 0]);
    assert_eq!(host.owner(9).as_deref(), Some("one"));
}

#[test]
fn a_name_or_a_key_that_a_client_of_an_unchanged_file_has_is_refused() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    for (text, what) in [
        (entry("one", 2), "b.toml:1: client.name is one, the name of a client in another file"),
        (entry("two", 1), "b.toml:1: two has a key of the client one, which is in another file"),
    ] {
        host.write("b.toml", &text);
        let error = host.reload().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert_eq!((host.owner(1).as_deref(), host.directory.len()), (Some("one"), 1));
}

const BOTH: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
    [[service]]\nname = \"coaps\"\nports = [\"udp/5684\"]\n";

#[test]
fn a_service_and_a_client_that_names_it_come_and_go_together() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    fs::write(host.main(), BOTH).unwrap();
    host.write("b.toml", &entry("two", 2).replace("mqtts", "coaps"));
    assert_eq!(counts(&host.reload().unwrap()), [1, 0, 0]);
    let coaps = host.directory.service_named("coaps".parse().unwrap()).unwrap();
    let two = host.directory.clients_by_name()["two"];
    let holds = |host: &Host, client, service| {
        let entry = host.directory.entry(client);
        entry.is_some_and(|entry| entry.may_hold(service, anywhere(), Timestamp::from_millis(NOON)))
    };
    assert!(holds(&host, two, coaps));

    fs::write(host.main(), BOTH.split_at(BOTH.rfind("[[").unwrap()).0).unwrap();
    host.write("b.toml", &entry("two", 2));
    assert_eq!(counts(&host.reload().unwrap()), [0, 1, 0]);
    assert!(!holds(&host, two, coaps));
    assert_eq!(host.directory.service_named("coaps".parse().unwrap()), None);
    assert!(host.directory.service(coaps).ports.is_empty());

    fs::write(host.main(), BOTH).unwrap();
    assert_eq!(counts(&host.reload().unwrap()), [0, 0, 0]);
    assert_eq!(host.directory.service_named("coaps".parse().unwrap()), Some(coaps));
}

#[test]
fn a_service_that_a_client_of_an_unchanged_file_names_cannot_go() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    fs::write(host.main(), BOTH.replace("mqtts", "other")).unwrap();
    let error = host.reload().unwrap_err().to_string();
    assert!(error.contains("a.toml:4: client.services has a service in it"), "{error}");
    assert!(host.directory.service_named("mqtts".parse().unwrap()).is_some());
}

#[test]
fn mistakes_of_the_main_file_and_of_a_clients_file_are_told_in_one_run() {
    let mut host = Host::new(&[("a.toml", entry("one", 1))]);
    host.write("b.toml", "[[client]]\nname = \"two\"\n");
    fs::write(host.main(), format!("clock-skew = \"13h\"\n{BOTH}")).unwrap();
    let error = host.reload().unwrap_err().to_string();
    for place in ["knockd.toml:1:", "b.toml:1:"] {
        assert!(error.contains(place), "{place}: {error}");
    }
    fs::write(host.main(), "not = [ TOML\n").unwrap();
    let error = host.reload().unwrap_err().to_string();
    for place in ["knockd.toml:1:", "b.toml:1:"] {
        assert!(error.contains(place), "{place}: {error}");
    }
}
