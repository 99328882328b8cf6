//! The services: each on its own, and all of them together.
//!
//! # Security considerations
//! A grant is for an address and a port. Where two services share a port, a door for one opens the
//! other as well, so that is refused unless both lead to the same hosts.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use common::{ServiceName, UnicastAddress};

use super::{
    Origin,
    allow::values,
    field::At,
    keys::{PORTS, SERVICE, SERVICE_NAME, TO},
    section::Section,
    source::Wrong,
};
use crate::gate::policy::{Port, Protocol, Service};

/// A service that is right in itself, and the places of what another could contradict.
struct Placed {
    name: At<ServiceName>,
    ports: Vec<At<Port>>,
    to: BTreeSet<IpAddr>,
}

/// Reads every `[[service]]`; `None` if one is wrong, or there is none.
pub(super) fn read(
    section: &mut Section<'_, '_, '_>,
    knock_port: Option<NonZeroU16>,
) -> Option<Vec<Service>> {
    let mut placed: Vec<Placed> = Vec::new();
    let read = section.tables(SERVICE, |table| {
        let service = read_one(table, knock_port);
        let (service, places) = service?;
        let contradiction = placed.iter().find_map(|other| contradiction(table, other, &places));
        placed.push(places);
        match contradiction {
            None => Some(service),
            Some((key, at, wrong)) => {
                table.wrong(key, at, wrong);
                None
            }
        }
    });
    if read.as_ref().is_some_and(Vec::is_empty) {
        let example = "write [[service]] with name = \"mqtts\" and ports = [\"tcp/8883\"] below it";
        section.add(SERVICE, "there is no service to protect", example);
        return None;
    }
    read?.into_iter().collect()
}

fn read_one(
    table: &mut Section<'_, '_, '_>,
    knock_port: Option<NonZeroU16>,
) -> Option<(Service, Placed)> {
    let name = table.text(&SERVICE_NAME, service_name);
    let ports = table.texts(&PORTS, |text| {
        text.parse::<Port>()
            .map_err(|error| Wrong::new(format!("has something in it that is no port: {error}")))
    });
    let to = table.texts(&TO, address_behind);
    let name = table.required(&SERVICE_NAME, name);
    let ports = table.required(&PORTS, ports);
    let to = to.or(Vec::new());

    let ports = ports.filter(|ports| {
        if ports.value.is_empty() {
            table.wrong(&PORTS, ports.at, Wrong::new("is empty"));
        }
        let twice = report_twice(table, &ports.value);
        !ports.value.is_empty() && !twice
    });
    let (name, ports, to) = (name?, ports?, to?);
    let on_this_host = to.value.is_empty();
    let knocked_at = |port: &&At<Port>| {
        port.value.protocol == Protocol::Udp && Some(port.value.number) == knock_port
    };
    if let Some(port) = ports.value.iter().find(knocked_at).filter(|_| on_this_host) {
        let what = format!("has {} in it, where knocks arrive: it can't be protected", port.value);
        let instead = "write another port here, or in listen";
        table.wrong(&PORTS, port.at, Wrong::with(what, instead));
        return None;
    }
    let placed = Placed {
        name,
        ports: ports.value.clone(),
        to: to.value.iter().map(|address| address.value).collect(),
    };
    let service = Service {
        name: name.value,
        ports: values(ports.value),
        // In the order of the file, each once.
        to: values(to.value),
    };
    Some((service, placed))
}

/// Reports ports that stand twice in one list.
fn report_twice(table: &mut Section<'_, '_, '_>, ports: &[At<Port>]) -> bool {
    let mut seen = BTreeSet::new();
    let mut twice = false;
    for port in ports {
        if !seen.insert(port.value) {
            let what = format!("has {} twice", port.value);
            table.wrong(&PORTS, port.at, Wrong::with(what, "write it once"));
            twice = true;
        }
    }
    twice
}

/// What a service and one before it can't both be.
fn contradiction(
    table: &Section<'_, '_, '_>,
    other: &Placed,
    this: &Placed,
) -> Option<(&'static super::field::Key, usize, Wrong)> {
    let place = |at| -> Origin { table.origin(at) };
    if other.name.value == this.name.value {
        let what = format!("is {} a second time, after {}", this.name.value, place(other.name.at));
        let wrong = Wrong::with(what, "give each service a name of its own");
        return Some((&SERVICE_NAME, this.name.at, wrong));
    }
    if other.to == this.to {
        return None;
    }
    let shared = this.ports.iter().find_map(|port| {
        other.ports.iter().find(|its| its.value == port.value).map(|its| (port, its))
    })?;
    let (port, its) = shared;
    let what = format!(
        "has {} in it, which {} has at {} too: a grant is for an address and a port, so a door for \
         one would open the other",
        port.value,
        other.name.value,
        place(its.at),
    );
    let instead = "write the same `to` for both, or another port";
    Some((&PORTS, port.at, Wrong::with(what, instead)))
}

fn service_name(text: &str) -> Result<ServiceName, Wrong> {
    text.parse()
        .map_err(|error| Wrong::new(format!("is nothing that a service can be called: {error}")))
}

/// An address behind this host.
fn address_behind(text: &str) -> Result<IpAddr, Wrong> {
    let address: IpAddr =
        text.parse().map_err(|_| Wrong::new("has something in it that is no address"))?;
    UnicastAddress::try_from(address).map(UnicastAddress::ip).map_err(|error| {
        let what = format!("has {address} in it, {error}, which nothing behind this host can have");
        Wrong::with(what, "write the address that devices connect to")
    })
}
