//! What differs between two configurations, key by key, clients aside.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use ipnet::IpNet;

use super::{Config, InterfaceName, PrefilterMode, duration::Written, metrics::Endpoint};
use crate::gate::policy::{BanScope, ReplyPolicy, Service, Sessions};

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key, as `grant.max`; of a service, `service mqtts`.
    pub key: String,
    /// What it was, as one would write it.
    pub was: String,
    /// What it is.
    pub is: String,
    /// When that takes effect.
    pub effect: Effect,
}

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At a reload.
    AtOnce,
    /// When the daemon starts.
    AtStart,
}

/// What differs, in the order of the example configuration.
#[must_use]
pub fn differences(former: &Config, config: &Config) -> Vec<Difference> {
    let all = values(former).into_iter().zip(values(config));
    let mut differences: Vec<Difference> = all
        .filter(|(was, is)| was.value != is.value)
        .map(|(was, is)| Difference {
            key: is.key.to_owned(),
            was: was.value,
            is: is.value,
            effect: is.effect,
        })
        .collect();
    differences.extend(services(&former.policy.services, &config.policy.services));
    differences
}

impl Config {
    /// This configuration with what takes effect at a start alone left as it was.
    #[must_use]
    pub fn without_restart(mut self, former: &Self) -> Self {
        self.listen = former.listen.clone();
        self.clients_dir.clone_from(&former.clients_dir);
        self.state.clone_from(&former.state);
        self.control.clone_from(&former.control);
        self.policy.realm = former.policy.realm;
        self.metrics = former.metrics.clone();
        self
    }
}

struct Value {
    key: &'static str,
    value: String,
    effect: Effect,
}

fn values(config: &Config) -> Vec<Value> {
    let Config { listen, state, control, clients_dir, policy, allow, prefilter, metrics, .. } =
        config;
    let value = |key, value: String| Value { key, value, effect: Effect::AtOnce };
    let at_start = |key, value: String| Value { key, value, effect: Effect::AtStart };
    let duration = |duration: Duration| Written(duration).to_string();
    let never: Vec<&IpNet> =
        policy.ban.never.iter().filter(|network| !allow.networks.contains(network)).collect();
    vec![
        at_start("listen", list(listen.addresses())),
        at_start("clients", clients_dir.display().to_string()),
        at_start("state", state.display().to_string()),
        at_start("control", control.display().to_string()),
        at_start("realm", format!("{:?}", policy.realm.as_str())),
        value("clock-skew", duration(Duration::from_millis(policy.clock_skew.as_millis()))),
        value("allow.interfaces", list(allow.interfaces.iter().map(InterfaceName::as_str))),
        value("allow.networks", list(&allow.networks)),
        value("grant.open-for", duration(policy.grant.open_for)),
        value("grant.max", duration(policy.grant.max)),
        value("grant.per-client", policy.grant.per_client.to_string()),
        value(
            "grant.sessions",
            match policy.grant.sessions {
                Sessions::Keep => "keep",
                Sessions::Cut => "cut",
            }
            .to_owned(),
        ),
        value("ban.failures", policy.ban.failures.to_string()),
        value("ban.window", duration(policy.ban.window)),
        value("ban.duration", duration(policy.ban.duration)),
        value(
            "ban.scope",
            match policy.ban.scope {
                BanScope::Knock => "knock",
                BanScope::Host => "host",
            }
            .to_owned(),
        ),
        value("ban.never", list(never)),
        value("replay.capacity", policy.replay.capacity.to_string()),
        value("replay.per-client", policy.replay.per_client.to_string()),
        value("reply.enabled", (policy.reply == ReplyPolicy::On).to_string()),
        value(
            "prefilter.mode",
            match prefilter.mode {
                PrefilterMode::Auto => "auto",
                PrefilterMode::On => "on",
                PrefilterMode::Off => "off",
            }
            .to_owned(),
        ),
        value("prefilter.junk-budget", prefilter.junk_budget.to_string()),
        at_start(
            "metrics.listen",
            match &metrics.listen {
                None => "nowhere".to_owned(),
                Some(Endpoint::Tcp(address)) => address.to_string(),
                Some(Endpoint::Unix(path)) => format!("unix:{}", path.display()),
            },
        ),
        at_start("metrics.per-client", metrics.per_client.to_string()),
    ]
}

/// The services that differ, by name.
fn services(former: &[Service], services: &[Service]) -> Vec<Difference> {
    let by_name = |services: &[Service]| -> BTreeMap<String, String> {
        services.iter().map(|it| (it.name.to_string(), shown(it))).collect()
    };
    let (former, services) = (by_name(former), by_name(services));
    let names: std::collections::BTreeSet<&String> = former.keys().chain(services.keys()).collect();
    let none = || "none".to_owned();
    names
        .into_iter()
        .filter(|name| former.get(*name) != services.get(*name))
        .map(|name| Difference {
            key: format!("service {name}"),
            was: former.get(name).cloned().unwrap_or_else(none),
            is: services.get(name).cloned().unwrap_or_else(none),
            effect: Effect::AtOnce,
        })
        .collect()
}

fn shown(service: &Service) -> String {
    match service.to.is_empty() {
        true => list(&service.ports),
        false => format!("{} to {}", list(&service.ports), list(&service.to)),
    }
}

fn list(things: impl IntoIterator<Item = impl Display>) -> String {
    let things: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    format!("[{}]", things.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Folder, MAIN},
        *,
    };

    fn loaded(main: &str) -> Config {
        let folder = Folder::new(main);
        let config = folder.load().unwrap().config;
        // Paths of two folders differ of themselves.
        Config { state: "s".into(), control: "c".into(), clients_dir: "d".into(), ..config }
    }

    /// Every key with another value than its default.
    const OTHER: &str = "listen = [\"127.0.0.1:62202\"]\nrealm = \"r\"\nclock-skew = \"1m\"\n\
        [[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"tcp/8884\"]\n\
        [[service]]\nname = \"coaps\"\nports = [\"udp/5684\"]\nto = [\"192.0.2.7\"]\n\
        [allow]\ninterfaces = [\"wg0\"]\nnetworks = [\"192.0.2.0/24\"]\n\
        [grant]\nopen-for = \"1m\"\nmax = \"2h\"\nper-client = 5\nsessions = \"cut\"\n\
        [ban]\nfailures = 6\nwindow = \"1h\"\nduration = \"1d\"\nscope = \"host\"\nnever = [\"10.0.0.0/8\"]\n\
        [prefilter]\nmode = \"off\"\njunk-budget = 7\n[replay]\ncapacity = 5\nper-client = 5\n\
        [metrics]\nlisten = \"127.0.0.1:9162\"\nper-client = 5\n";

    #[test]
    fn every_key_that_differs_is_told_and_none_that_does_not() {
        let (former, config) = (loaded(MAIN), loaded(OTHER));
        assert_eq!(differences(&former, &former), []);
        assert_eq!(differences(&config, &config), []);
        let differences = differences(&former, &config);
        let keys: Vec<&str> = differences.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "listen",
                "realm",
                "clock-skew",
                "allow.interfaces",
                "allow.networks",
                "grant.open-for",
                "grant.max",
                "grant.per-client",
                "grant.sessions",
                "ban.failures",
                "ban.window",
                "ban.duration",
                "ban.scope",
                "ban.never",
                "replay.capacity",
                "replay.per-client",
                "prefilter.mode",
                "prefilter.junk-budget",
                "metrics.listen",
                "metrics.per-client",
                "service coaps",
                "service mqtts",
            ]
        );
        let mqtts = differences.last().unwrap();
        assert_eq!((&*mqtts.was, &*mqtts.is), ("[tcp/8883]", "[tcp/8883, tcp/8884]"));
    }

    #[test]
    fn what_takes_effect_at_a_start_alone_is_left_as_it_was() {
        let (former, config) = (loaded(MAIN), loaded(OTHER));
        let in_force = config.clone().without_restart(&former);
        let left = differences(&in_force, &config);
        assert!(left.iter().all(|it| it.effect == Effect::AtStart));
        let all = differences(&former, &config);
        let at_start = all.iter().filter(|it| it.effect == Effect::AtStart);
        assert_eq!(at_start.collect::<Vec<_>>(), left.iter().collect::<Vec<_>>());
    }
}
