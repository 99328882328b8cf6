//! The configuration: `knockd.toml` and a file of clients, any bytes in either.

use std::{collections::HashSet, path::Path, sync::LazyLock, time::Duration};

use knockd::{
    config::{Environment, FileContent, Located, Mistake, parse},
    plan,
};

use crate::planted::{assert_silent, lines, with_keys};

const MAIN: &str = "/etc/knockd/knockd.toml";
const CLIENTS: &str = "/etc/knockd/clients.d/fuzz.toml";

/// The main file is what is before the first zero byte, and the file of clients what is behind it.
pub fn config(data: &[u8]) {
    static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(Environment::default);
    let mut parts = data.splitn(2, |byte| *byte == 0).map(with_keys);
    let [main, clients] = [parts.next(), parts.next()].map(Option::unwrap_or_default);
    let file = |path, bytes| FileContent { path: Path::new(path), bytes };
    match parse(file(MAIN, &main), &[file(CLIENTS, &clients)], &ENVIRONMENT) {
        Err(mistakes) => {
            assert!(mistakes.iter().next().is_some());
            mistakes.iter().for_each(|mistake| is_told_well(mistake, &main, &clients));
        }
        Ok(located) => is_sound(&located, &clients),
    }
}

/// A mistake names a line that is there, says what to do, and shows no key.
fn is_told_well(mistake: &Mistake, main: &[u8], clients: &[u8]) {
    let text = if mistake.file == Path::new(MAIN) { main } else { clients };
    assert!(mistake.file == Path::new(MAIN) || mistake.file == Path::new(CLIENTS), "{mistake}");
    let line = mistake.line.expect("whatever is wrong with a text is in one of its lines");
    assert!((1..=lines(text)).contains(&(line as usize)), "{mistake}");
    assert!(!mistake.what.is_empty() && !mistake.instead.is_empty(), "{mistake:?}");
    assert_silent(&mistake.to_string());
    assert_silent(&mistake.key);
}

/// What is promised of a configuration that was loaded.
fn is_sound(Located { config, origins }: &Located, clients: &[u8]) {
    let policy = &config.policy;
    assert!(!policy.services.is_empty());
    let names: HashSet<_> = policy.services.iter().map(|service| service.name).collect();
    assert_eq!(names.len(), policy.services.len());
    assert!(policy.services.iter().all(|service| !service.ports.is_empty()));
    let grant = policy.grant;
    assert!(Duration::from_secs(1) <= grant.open_for && grant.open_for <= grant.max);
    assert!(0 < policy.replay.per_client && policy.replay.per_client <= policy.replay.capacity);
    // Nobody is banned for ever, and every failure is forgotten some day.
    let [day, second] = [Duration::from_hours(24), Duration::from_secs(1)];
    assert!((second..=day * 30).contains(&policy.ban.window));
    assert!((second..=day * 365).contains(&policy.ban.duration));

    assert_eq!(origins.len(), config.clients.len());
    for origin in origins {
        assert!(*origin.file == *Path::new(CLIENTS));
        assert!((1..=lines(clients)).contains(&(origin.line as usize)));
    }
    let of_clients: HashSet<_> = config.clients.iter().map(|client| &client.name).collect();
    assert_eq!(of_clients.len(), config.clients.len(), "two clients of one name");
    let keys: HashSet<_> = config.clients.iter().map(|client| client.secret.expose()).collect();
    assert_eq!(keys.len(), config.clients.len(), "two clients of one key");
    for client in &config.clients {
        assert!(!client.services.is_empty());
        assert!(client.services.iter().all(|service| names.contains(service)));
    }

    let script = plan::ruleset(config, config.clients.len()).script();
    assert!(
        script.bytes().all(|byte| byte == b'\n' || byte == b'\t' || (b' '..=b'~').contains(&byte))
    );
    assert_silent(&script);
}
