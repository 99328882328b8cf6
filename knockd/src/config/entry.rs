//! One `[[client]]`.

use std::{collections::HashSet, num::NonZeroU32, sync::Arc};

use common::{Secret, ServiceName, Timestamp};

use super::{
    allow::{network_or_wrong, values},
    field::{At, Field},
    keys::{
        ADDRESS, CLIENT_NAME, CLOCK, ENABLED, EXPIRES, FROM, KEY, KEY_FROM, KEY_GENERATION,
        OLD_KEY, OLD_KEY_UNTIL, SERVICES,
    },
    master::Master,
    secret,
    section::Section,
    source::Wrong,
};
use crate::gate::policy::{AddressPolicy, Client, ClientClock, ClientName, OldKey, Standing};

/// What an entry says, right or wrong: its name and its key must be nobody else's in either case.
pub(super) struct Read {
    pub(super) name: Option<At<ClientName>>,
    pub(super) secret: Option<At<Secret>>,
    pub(super) old_secret: Option<At<Secret>>,
    /// Where the secret is derived: its generation.
    pub(super) generation: Option<NonZeroU32>,
    /// All of the entry but for these; `None` if something in it is wrong.
    pub(super) rest: Option<Rest>,
}

/// Lists of services, each held once: most clients of a fleet have the same, and memory for each of a
/// million adds up.
#[derive(Default)]
pub(super) struct ServiceLists(HashSet<Arc<[ServiceName]>>);

impl ServiceLists {
    fn shared(&mut self, services: &[ServiceName]) -> Arc<[ServiceName]> {
        if let Some(list) = self.0.get(services) {
            return Arc::clone(list);
        }
        let list = Arc::from(services);
        self.0.insert(Arc::clone(&list));
        list
    }
}

pub(super) struct Rest {
    services: Vec<ServiceName>,
    from: Vec<ipnet::IpNet>,
    address: AddressPolicy,
    clock: ClientClock,
    expires: Option<Timestamp>,
    standing: Standing,
    /// Until when the old key is good, if there is one.
    old_until: Option<Timestamp>,
}

impl Rest {
    /// The client that the whole entry stands for.
    pub(super) fn into_client(
        self,
        name: ClientName,
        secret: Secret,
        old_secret: Option<Secret>,
        service_lists: &mut ServiceLists,
    ) -> Client {
        let Self { services, from, address, clock, expires, standing, old_until } = self;
        let services = service_lists.shared(&services);
        let old_key =
            old_secret.zip(old_until).map(|(secret, until)| Box::new(OldKey { secret, until }));
        Client { name, secret, old_key, services, from, address, clock, expires, standing }
    }
}

/// Reads an entry. `known` is the names of the services there are; `None` if they aren't known, since
/// they are wrong themselves.
pub(super) fn read(
    table: &mut Section<'_, '_, '_>,
    known: Option<&[ServiceName]>,
    master: &mut Master,
) -> Read {
    let name = table.text(&CLIENT_NAME, |text| {
        text.parse::<ClientName>()
            .map_err(|error| Wrong::new(format!("is nothing that a client can be called: {error}")))
    });
    let own = table.text(&KEY, secret::parse);
    let key_from = table.text(&KEY_FROM, |text| match text {
        "own" => Ok(KeyFrom::Own),
        "master" => Ok(KeyFrom::Master),
        _ => Err(Wrong::new("is neither own nor master")),
    });
    let generation = table.number(&KEY_GENERATION, 1, u32::MAX);
    let old_secret = table.text(&OLD_KEY, secret::parse);
    let old_until = table.time(&OLD_KEY_UNTIL, expiry);
    let services = table.texts(&SERVICES, |text| service(text, known));
    let from = table.texts(&FROM, network_or_wrong);
    let address = table.text(&ADDRESS, |text| match text {
        "strict" => Ok(AddressPolicy::Strict),
        "observed" => Ok(AddressPolicy::Observed),
        _ => Err(Wrong::new("is neither strict nor observed")),
    });
    let clock = table.text(&CLOCK, |text| match text {
        "utc" => Ok(ClientClock::Utc),
        "counter" => Ok(ClientClock::Counter),
        _ => Err(Wrong::new("is neither utc nor counter")),
    });
    let expires = table.time(&EXPIRES, expiry);
    let enabled = table.boolean(&ENABLED);

    let name = table.required(&CLIENT_NAME, name);
    let (secret, generation) = key(table, own, key_from, generation, name.as_ref(), master).unzip();
    let services = table.required(&SERVICES, services).and_then(|list| each_once(table, list));
    let old = old_key(table, secret.as_ref(), old_secret, old_until);
    let rest = (|| {
        let old_until = old.as_ref()?.as_ref().map(|(_, until)| *until);
        Some(Rest {
            old_until,
            services: services?,
            from: values(from.or(Vec::new())?.value),
            address: address.or(AddressPolicy::Strict)?.value,
            clock: clock.or(ClientClock::Utc)?.value,
            expires: expires.map(Some).or(None)?.value,
            standing: match enabled.or(true)?.value {
                true => Standing::Enabled,
                false => Standing::Disabled,
            },
        })
    })();
    let old_secret = old.flatten().map(|(secret, _)| secret);
    Read { name, secret, old_secret, generation: generation.flatten(), rest }
}

/// Where a client's key comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFrom {
    /// It stands in the entry.
    Own,
    /// It is derived of the master key and the client's name.
    Master,
}

/// The client's key, and its generation where it is derived; `None` if it is wrong.
fn key(
    table: &mut Section<'_, '_, '_>,
    own: Field<Secret>,
    key_from: Field<KeyFrom>,
    generation: Field<u32>,
    name: Option<&At<ClientName>>,
    master: &mut Master,
) -> Option<(At<Secret>, Option<NonZeroU32>)> {
    let key_from = key_from.or(KeyFrom::Own)?;
    let generation = generation.or(1)?;
    if key_from.value == KeyFrom::Own {
        let own = table.required(&KEY, own)?;
        if generation.value != 1 {
            let instead = "leave it out, or write key-from = \"master\" and no key";
            let wrong =
                Wrong::with("counts the keys that are derived, and this one isn't", instead);
            table.wrong(&KEY_GENERATION, generation.at, wrong);
            return None;
        }
        return Some((own, None));
    }
    if !matches!(own, Field::Absent) {
        let wrong =
            Wrong::with("is \"master\", and there is a key as well", "leave one of them out");
        table.wrong(&KEY_FROM, key_from.at, wrong);
        return None;
    }
    let generation = NonZeroU32::new(generation.value)?;
    match master.key(name?.value.as_str(), generation) {
        Some(Ok(value)) => Some((At { value, at: key_from.at }, Some(generation))),
        Some(Err(wrong)) => {
            table.wrong(&KEY_FROM, key_from.at, wrong);
            None
        }
        None => None,
    }
}

/// The old key and until when it is good, if there is one; `None` if it is wrong.
fn old_key(
    table: &mut Section<'_, '_, '_>,
    key: Option<&At<Secret>>,
    old: Field<Secret>,
    until: Field<Timestamp>,
) -> Option<Option<(At<Secret>, Timestamp)>> {
    let (old, until) = match (old, until) {
        (Field::Absent, Field::Absent) => return Some(None),
        (old, until) => (table.required(&OLD_KEY, old), table.required(&OLD_KEY_UNTIL, until)),
    };
    let (old, until) = (old?, until?);
    if key.is_some_and(|key| key.value.is_same(&old.value)) {
        let wrong = Wrong::with("is the same as client.key", "leave old-key and old-key-until out");
        table.wrong(&OLD_KEY, old.at, wrong);
        return None;
    }
    Some(Some((old, until.value)))
}

/// The name of a service that there is.
fn service(text: &str, known: Option<&[ServiceName]>) -> Result<ServiceName, Wrong> {
    let name: ServiceName = text.parse().map_err(|error| {
        Wrong::new(format!("has something in it that no service is called: {error}"))
    })?;
    match known {
        Some(known) if !known.contains(&name) => {
            let names: Vec<_> = known.iter().map(ServiceName::as_str).collect();
            let instead = format!("write one of {}, or add it to knockd.toml", names.join(", "));
            Err(Wrong::with("has a service in it that knockd.toml doesn't", instead))
        }
        _ => Ok(name),
    }
}

fn each_once(
    table: &mut Section<'_, '_, '_>,
    list: At<Vec<At<ServiceName>>>,
) -> Option<Vec<ServiceName>> {
    if list.value.is_empty() {
        table.wrong(&SERVICES, list.at, Wrong::new("is empty: the client could open nothing"));
        return None;
    }
    let mut services: Vec<ServiceName> = Vec::with_capacity(list.value.len());
    let mut all_right = true;
    for At { value, at } in list.value {
        if services.contains(&value) {
            let wrong = Wrong::with(format!("has {value} twice"), "write it once");
            table.wrong(&SERVICES, at, wrong);
            all_right = false;
        }
        services.push(value);
    }
    all_right.then_some(services)
}

/// The time that an entry ends at.
fn expiry(time: toml::value::Datetime) -> Result<Timestamp, Wrong> {
    if time.date.is_none() || time.time.is_none() || time.offset.is_none() {
        return Err(Wrong::new("is not a date with a time and an offset from UTC"));
    }
    // Both know RFC 3339, and jiff knows what the offset means.
    let time: jiff::Timestamp =
        time.to_string().parse().map_err(|_| Wrong::new("is not a time that there is"))?;
    u64::try_from(time.as_millisecond())
        .map(Timestamp::from_millis)
        .map_err(|_| Wrong::new("is before 1970"))
}
