//! `[ban]`: who is banned, and for how long.

use std::{num::NonZeroU32, time::Duration};

use ipnet::{IpNet, Ipv6Net};

use super::{
    allow::{network_or_wrong, values},
    duration::Written,
    field::{Field, Key},
    keys::{DURATION, FAILURES, NEVER, SCOPE, TRANSLATED, WINDOW},
    section::Section,
    settings::duration_or_wrong,
    source::Wrong,
};
use crate::gate::{
    policy::{BanPolicy, BanScope},
    source::Translators,
};

/// Failures that can be tolerated at once at most.
const FAILURES_LIMIT: u32 = 10_000;
/// The shortest window and the shortest ban.
const LEAST: Duration = Duration::from_secs(1);
/// The longest window.
const WINDOW_LIMIT: Duration = Duration::from_hours(30 * 24);
/// The longest ban by failures.
const DURATION_LIMIT: Duration = Duration::from_hours(365 * 24);

/// What the section says; `None` if it is wrong.
pub(super) fn read(table: &mut Section<'_, '_, '_>) -> Option<BanPolicy> {
    let default = BanPolicy::default();
    let failures = table.number(&FAILURES, 1, FAILURES_LIMIT).or(default.failures.get());
    let window = bounded(table, &WINDOW, WINDOW_LIMIT).or(default.window);
    let duration = bounded(table, &DURATION, DURATION_LIMIT).or(default.duration);
    let scope = table.text(&SCOPE, |text| match text {
        "knock" => Ok(BanScope::Knock),
        "host" => Ok(BanScope::Host),
        _ => Err(Wrong::new("is neither knock nor host")),
    });
    let scope = scope.or(default.scope);
    let never: Option<Vec<IpNet>> =
        table.texts(&NEVER, network_or_wrong).or(Vec::new()).map(|list| values(list.value));
    let translators = table.texts(&TRANSLATED, prefix_or_wrong).or(Vec::new());
    let translators = translators.and_then(|list| Translators::new(values(list.value)).ok());
    Some(BanPolicy {
        failures: NonZeroU32::new(failures?.value)?,
        window: window?.value,
        duration: duration?.value,
        scope: scope?.value,
        never: never?,
        translators: translators?,
    })
}

/// A prefix within which every address counts as a source.
fn prefix_or_wrong(text: &str) -> Result<Ipv6Net, Wrong> {
    let prefix: Ipv6Net = text.parse().map_err(|_| Wrong::new("is no IPv6 prefix"))?;
    if prefix.trunc() != prefix {
        return Err(Wrong::new(format!(
            "has bits set behind its length; write {}",
            prefix.trunc()
        )));
    }
    match Translators::new(vec![prefix]) {
        Ok(_) => Ok(prefix),
        Err(error) => Err(Wrong::new(format!("is no prefix to name here: {error}"))),
    }
}

fn bounded(table: &mut Section<'_, '_, '_>, key: &Key, limit: Duration) -> Field<Duration> {
    table.text(key, |text| {
        let duration = duration_or_wrong(text)?;
        if (LEAST..=limit).contains(&duration) {
            return Ok(duration);
        }
        let (is, least, limit) = (Written(duration), Written(LEAST), Written(limit));
        Err(Wrong::new(format!("is {is}, which is not from {least} to {limit}")))
    })
}
