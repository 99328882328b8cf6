//! Who is in, and who is banned, over the control socket: in pages, so that no list, however long, keeps packets
//! waiting or makes a reply without a bound.
//!
//! A page has at most [`ROWS`] rows. The next one begins behind the last row of the one before. Grants come in an
//! order that doesn't change with time: each that is live for as long as the pages are read is in one of them,
//! once. Bans come by their ends: one that is made longer meanwhile can be in two.

use serde::{Deserialize, Serialize};

use crate::{
    admission::Admission,
    firewall::Firewall,
    gate::{
        clock::{Now, Uptime},
        directory::{ClientId, ServiceId},
        grants::Owner,
        policy::Port,
        source::Source,
    },
    journal::StateFile,
    telemetry::rfc3339,
};

use common::UnicastAddress;

/// Rows of a page: what they take is less than a millisecond.
pub const ROWS: usize = 500;

/// Where a page of grants ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GrantMark {
    /// The address of the last one.
    pub address: std::net::IpAddr,
    /// Its client's place in the daemon's directory.
    pub client: u32,
    /// Its service's place there.
    pub service: u16,
}

/// Where a page of bans ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BanMark {
    /// The end of the last one, in milliseconds of uptime.
    pub until_ms: u64,
    /// Its source.
    pub source: String,
}

/// A page of grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GrantsPage {
    /// At most [`ROWS`] rows.
    pub grants: Vec<GrantRow>,
    /// Where the next page begins; none if this is the last one.
    pub next: Option<GrantMark>,
}

/// A page of bans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BansPage {
    /// At most [`ROWS`] rows.
    pub bans: Vec<BanRow>,
    /// Where the next page begins; none if this is the last one.
    pub next: Option<BanMark>,
}

/// One grant; without a client and a service, a door in the kernel that no grant is known for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GrantRow {
    /// The client's name.
    pub client: Option<String>,
    /// The address that is let in.
    pub address: String,
    /// The service.
    pub service: Option<String>,
    /// Its ports, as `tcp/8883`.
    pub ports: Vec<String>,
    /// When it ends: RFC 3339.
    pub expires: String,
    /// In how many seconds that is.
    pub remaining_s: u64,
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BanRow {
    /// The source: an IPv4 address, or an IPv6 /64.
    pub source: String,
    /// Who has banned it: `failures` or `admin`.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// When it ends: RFC 3339.
    pub expires: String,
    /// In how many seconds that is.
    pub remaining_s: u64,
}

/// The page of grants after this mark.
pub fn grants<F: Firewall, D: StateFile>(
    admission: &mut Admission<F, D>,
    after: Option<GrantMark>,
    now: Now,
) -> GrantsPage {
    admission.forget_ended_grants(now);
    let directory = admission.gate().directory();
    let row = |owner: &Owner, until: Uptime| {
        let service = directory.service(owner.service);
        let left = until.since(now.uptime);
        GrantRow {
            client: Some(directory.name(owner.client).to_owned()),
            address: owner.address.to_string(),
            service: Some(service.name.to_string()),
            ports: service.ports.iter().map(Port::to_string).collect(),
            expires: rfc3339(now.utc_of(until)),
            remaining_s: left.as_secs(),
        }
    };
    let mut owners = admission.grants().owners_after(after.and_then(GrantMark::owner));
    let page: Vec<_> = owners.by_ref().take(ROWS).collect();
    let next = owners.next().and_then(|_| page.last()).map(|(owner, _)| GrantMark::of(owner));
    let live = page.into_iter().filter(|(_, until)| now.uptime < **until);
    GrantsPage { grants: live.map(|(owner, until)| row(owner, *until)).collect(), next }
}

/// The page of bans after this mark.
pub fn bans<F: Firewall, D: StateFile>(
    admission: &mut Admission<F, D>,
    after: Option<&BanMark>,
    now: Now,
) -> BansPage {
    admission.forget_ended_bans(now);
    let mut bans = admission.gate().bans().ending_after(after.and_then(BanMark::end));
    let page: Vec<_> = bans.by_ref().take(ROWS).collect();
    let next = bans.next().and_then(|_| page.last()).map(|(source, ban)| BanMark {
        until_ms: ban.until.as_millis(),
        source: source.to_string(),
    });
    let row = |(source, ban): (Source, &crate::gate::bans::Ban)| BanRow {
        source: source.to_string(),
        by: ban.kind.name().to_owned(),
        reason: Some(ban.reason.to_string()).filter(|reason| !reason.is_empty()),
        expires: rfc3339(now.utc_of(ban.until)),
        remaining_s: ban.until.since(now.uptime).as_secs(),
    };
    BansPage { bans: page.into_iter().map(row).collect(), next }
}

impl GrantMark {
    fn of(owner: &Owner) -> Self {
        Self {
            address: owner.address.ip(),
            client: owner.client.number(),
            service: owner.service.number(),
        }
    }

    /// The owner there; `None` for an address that nobody can have, and then the list begins anew.
    fn owner(self) -> Option<Owner> {
        Some(Owner {
            address: UnicastAddress::try_from(self.address).ok()?,
            client: ClientId::from_number(self.client),
            service: ServiceId::from_number(self.service),
        })
    }
}

impl BanMark {
    fn end(&self) -> Option<(Uptime, Source)> {
        Some((Uptime::from_millis(self.until_ms), self.source.parse().ok()?))
    }
}
