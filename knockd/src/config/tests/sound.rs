//! What a sound configuration becomes.

use std::{path::PathBuf, time::Duration};

use common::{Realm, Timestamp};

use super::*;
use crate::{
    config::{Listen, secret},
    gate::policy::{AddressPolicy, ClientClock, ClockSkew, Sessions, Standing},
};

#[test]
fn the_shortest_configuration_has_the_documented_defaults() {
    let folder = Folder::new(MAIN);
    let config = folder.load().unwrap().config;
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.listen.addresses(), ["[::]:62201".parse().unwrap()]);
    assert_eq!(config.state, PathBuf::from("/var/lib/knockd"));
    assert_eq!(config.control, PathBuf::from("/run/knockd/control.sock"));
    assert_eq!(config.clients_dir, folder.clients_dir());
    assert_eq!(config.policy.realm, Realm::default());
    assert_eq!(config.policy.clock_skew.as_millis(), 30_000);
    assert_eq!(config.policy.grant.open_for, Duration::from_secs(30));
    assert_eq!(config.policy.grant.max, Duration::from_secs(3600));
    assert_eq!(config.policy.grant.sessions, Sessions::Keep);
    assert_eq!(config.policy.replay.capacity, 1_048_576);
    assert_eq!(config.policy.replay.per_client, 131_072);
    assert_eq!(config.policy.services.len(), 1);
    assert!(config.allow.interfaces.is_empty() && config.allow.networks.is_empty());
    assert!(config.clients.is_empty());
}

#[test]
fn every_key_has_its_effect() {
    let main = r#"
        listen = ["0.0.0.0:700", "[::1]:700"]
        clients = "those"
        state = "/srv/state"
        control = "c.sock"
        realm = "plant 7"
        clock-skew = "12h"
        [[service]]
        name = "mqtts"
        ports = ["tcp/8883", "udp/62201"]
        [[service]]
        name = "behind"
        ports = ["tcp/443"]
        to = ["192.0.2.7", "2001:db8::7"]
        [allow]
        interfaces = ["wg0"]
        networks = ["192.0.2.0/24", "::1/128"]
        [grant]
        open-for = "1s"
        max = "30d"
        sessions = "cut"
        [replay]
        capacity = 16_777_216
        per-client = 16_777_216
    "#;
    let folder = Folder::new(main);
    fs::create_dir(folder.main().with_file_name("those")).unwrap();
    let config =
        folder.load().map_err(|mistakes| mistakes.to_string()).map(|it| it.config).unwrap();
    assert_eq!(config.listen.port().get(), 700);
    assert_eq!(config.listen.addresses().len(), 2);
    assert_eq!(config.state, PathBuf::from("/srv/state"));
    assert_eq!(config.control, folder.main().with_file_name("c.sock"));
    assert_eq!(config.policy.realm, Realm::new("plant 7").unwrap());
    assert_eq!(config.policy.clock_skew, ClockSkew::try_from(ClockSkew::MAX).unwrap());
    assert_eq!(config.policy.services[1].to.len(), 2);
    assert_eq!(config.policy.services[0].ports[1].to_string(), "udp/62201");
    assert_eq!(config.policy.grant.sessions, Sessions::Cut);
    assert_eq!(config.policy.grant.max, Duration::from_secs(30 * 86_400));
    assert_eq!(config.policy.replay.per_client, 16_777_216);
    assert_eq!(config.allow.interfaces[0].as_str(), "wg0");
    assert_eq!(config.allow.networks[1].to_string(), "::1/128");
}

#[test]
fn every_key_of_a_client_has_its_effect() {
    let more = "from = [\"10.3.0.0/16\"]\naddress = \"observed\"\nclock = \"counter\"\n\
                expires = 1970-01-02T01:00:00+01:00\nenabled = false\n";
    let text = client("press-17", KEYS[0], more) + &client("press-18", KEYS[1], "");
    let Located { config, origins } = Folder::with_clients(MAIN, &text).load().unwrap();
    let [first, second] = config.clients.as_slice() else { panic!("two clients") };
    assert_eq!(first.name.as_str(), "press-17");
    assert_eq!(*secret::to_text(&first.secret), KEYS[0]);
    assert_eq!(*first.services, ["mqtts".parse().unwrap()]);
    assert_eq!(first.from, ["10.3.0.0/16".parse().unwrap()]);
    assert_eq!(first.address, AddressPolicy::Observed);
    assert_eq!(first.clock, ClientClock::Counter);
    assert_eq!(first.expires, Some(Timestamp::from_millis(86_400_000)));
    assert_eq!(first.standing, Standing::Disabled);
    assert!(second.from.is_empty());
    assert_eq!(second.address, AddressPolicy::Strict);
    assert_eq!(second.clock, ClientClock::Utc);
    assert_eq!(second.expires, None);
    assert_eq!(second.standing, Standing::Enabled);
    assert_eq!(origins.iter().map(|origin| origin.line).collect::<Vec<_>>(), [1, 11]);
}

#[test]
fn systemd_s_folder_is_the_default_for_the_state_and_not_more() {
    let environment = Environment { state_directory: Some("/run/state".into()) };
    let folder = Folder::new(MAIN);
    let state = |folder: &Folder| load_located(&folder.main(), &environment).unwrap().config.state;
    assert_eq!(state(&folder), PathBuf::from("/run/state"));
    folder.write("knockd.toml", &format!("state = \"/srv/state\"\n{MAIN}"));
    assert_eq!(state(&folder), PathBuf::from("/srv/state"));
}

#[test]
fn only_files_that_end_in_toml_and_are_not_hidden_hold_clients() {
    let folder = Folder::new(MAIN);
    folder.write("clients.d/b.toml", &client("b", KEYS[1], ""));
    folder.write("clients.d/a.toml", &client("a", KEYS[0], ""));
    for ignored in [".a.toml", "a.toml~", "a.toml.bak", "README"] {
        folder.write(&format!("clients.d/{ignored}"), "not = { TOML");
    }
    let clients = folder.load().unwrap().config.clients;
    assert_eq!(clients.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn two_services_may_share_a_port_where_they_lead_to_the_same_hosts() {
    let two = "[[service]]\nname = \"a\"\nports = [\"tcp/443\"]\nto = [\"192.0.2.1\", \"192.0.2.2\"]\n\
               [[service]]\nname = \"b\"\nports = [\"tcp/443\"]\nto = [\"192.0.2.2\", \"192.0.2.1\"]\n";
    assert_eq!(Folder::new(two).mistakes(), [""; 0]);
}

#[test]
fn the_port_of_the_knocks_may_be_that_of_a_service_behind_this_host() {
    let behind = "[[service]]\nname = \"a\"\nports = [\"udp/62201\"]\nto = [\"192.0.2.1\"]\n";
    assert_eq!(Folder::new(behind).mistakes(), [""; 0]);
}
