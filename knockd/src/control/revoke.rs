//! Ending grants on request, and what there is of one client.

use std::net::IpAddr;

use common::{ServiceName, UnicastAddress};
use serde::{Deserialize, Serialize};

use super::{
    Refused, RefusedKind, SkewSeen,
    answer::{Parts, ToEnd, bad},
    text,
};
use crate::{
    admission::Whose,
    firewall::Firewall,
    gate::{
        clock::Now,
        directory::{ClientId, ServiceId},
        policy::ClientName,
    },
    telemetry::rfc3339,
};

/// Which grants to end: of a client or an address, one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Revoke {
    /// The client's name.
    #[serde(default, with = "text::option")]
    pub client: Option<ClientName>,
    /// The address.
    pub address: Option<IpAddr>,
    /// The service; all of them if it isn't given.
    #[serde(default, with = "text::option")]
    pub service: Option<ServiceName>,
    /// Whether connections are to end as well.
    pub cut: bool,
}

/// Grants are ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Revoked {
    /// Whether there was any.
    pub changed: bool,
    /// How many.
    pub grants_ended: usize,
    /// How many connections were ended, as conntrack knows them: those that were closed just before among them.
    /// None if that wasn't asked for, or failed.
    pub connections_ended: Option<usize>,
    /// What went wrong beside it.
    pub warning: Option<String>,
}

/// What there is of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClientState {
    /// Whether the daemon knows it.
    pub known: bool,
    /// Its live grants, at most [`GRANTS_SHOWN`].
    pub grants: Vec<LiveGrant>,
    /// How many more there are.
    pub more: usize,
    /// How far its clock was off, if that was seen since the daemon started.
    #[serde(default)]
    pub skew: Option<SkewSeen>,
}

/// A live grant of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LiveGrant {
    /// The address that it is for.
    pub address: String,
    /// The service.
    pub service: String,
    /// When it ends: RFC 3339.
    pub expires: String,
    /// How many seconds are left of it.
    pub remaining_s: u64,
}

/// Live grants of one client that are told.
pub const GRANTS_SHOWN: usize = 100;

impl<F: Firewall> Parts<'_, F> {
    pub(super) fn revoke(&mut self, revoke: &Revoke, now: Now) -> Result<Revoked, Refused> {
        let service = revoke.service.map(|name| self.service(name)).transpose()?;
        let whose = match (&revoke.client, &revoke.address) {
            (Some(name), None) => {
                let unknown = || unknown(format!("there is no client {name}"));
                Whose::Client(self.client_named(name).ok_or_else(unknown)?)
            }
            (None, Some(address)) => {
                Whose::Address(UnicastAddress::try_from(address.to_canonical()).map_err(|_| {
                    bad(&format!("{address} is no host's address: no door is open for it"))
                })?)
            }
            _ => return Err(bad(&"grants are ended of a client or of an address")),
        };
        if revoke.cut {
            self.to_end = Some(self.connections_of(whose, service));
        }
        let revoked = self.admission.revoke(whose, service, now);
        Ok(Revoked {
            changed: revoked.grants > 0,
            grants_ended: revoked.grants,
            connections_ended: None,
            warning: revoked.warning,
        })
    }

    pub(super) fn client(&self, name: &ClientName, now: Now) -> ClientState {
        let Some(client) = self.client_named(name) else {
            return ClientState { known: false, grants: Vec::new(), more: 0, skew: None };
        };
        let directory = self.admission.gate().directory();
        let live = self.admission.grants().owners();
        let mut live = live.filter(|(owner, until)| owner.client == client && now.uptime < **until);
        let grants = live
            .by_ref()
            .take(GRANTS_SHOWN)
            .map(|(owner, until)| LiveGrant {
                address: owner.address.to_string(),
                service: directory.service(owner.service).name.to_string(),
                expires: rfc3339(now.utc_of(*until)),
                remaining_s: until.since(now.uptime).as_secs(),
            })
            .collect();
        let skew =
            self.admission.gate().skews().of(client).map(|skew| SkewSeen::new(name.as_str(), skew));
        ClientState { known: true, grants, more: live.count(), skew }
    }

    /// The connections that go with these grants, also those of grants that are over.
    fn connections_of(&self, whose: Whose, service: Option<ServiceId>) -> ToEnd {
        let directory = self.admission.gate().directory();
        let ports = service.map(|service| directory.service(service).ports.clone());
        match whose {
            Whose::Address(address) => ToEnd::From(address.ip(), ports),
            Whose::Client(client) => {
                let mut doors = self.admission.doors_of(client);
                doors.retain(|door| ports.as_ref().is_none_or(|ports| ports.contains(&door.port)));
                ToEnd::Through(doors)
            }
        }
    }

    /// Looks at every client: for an admin, never for a packet. An index by name isn't worth its memory.
    pub(super) fn client_named(&self, name: &ClientName) -> Option<ClientId> {
        let mut clients = self.admission.gate().directory().clients();
        clients.find(|(_, known)| *known == name.as_str()).map(|(client, _)| client)
    }

    fn service(&self, name: ServiceName) -> Result<ServiceId, Refused> {
        let known = self.admission.gate().directory().service_named(name);
        known.ok_or_else(|| unknown(format!("there is no service {name}")))
    }
}

fn unknown(message: String) -> Refused {
    Refused::new(RefusedKind::Unknown, message)
}
