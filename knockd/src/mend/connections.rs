//! Connections that are to end with what let them in: by an admin's word, by a ban, or because no door did.

use std::{collections::HashSet, net::IpAddr};

use common::UnicastAddress;

use super::Mender;
use crate::{
    firewall::connections::{Connection, Done, Entry, Sweep},
    gate::{grants::Door, policy::Port, source::Source},
};

impl Mender {
    /// Has connections to guarded ports ended soon.
    pub fn end_connections(&self, sweep: Sweep) {
        self.sweeper.end(sweep);
    }

    /// Has the connections from a banned source to guarded ports ended soon.
    pub fn end_connections_of(&self, source: Source) {
        let select = Box::new(move |connection: &Connection| source.contains(connection.source));
        self.end_connections(Sweep { which: "of a banned source", select, done: None });
    }

    /// Has the connections through these doors ended, whoever's they are, and tells when that is done. One for which
    /// a door is open lives on.
    pub fn end_connections_through(&self, doors: HashSet<Door>, done: Done) {
        let sweep = through(doors, "that an admin has ended");
        self.end_connections(Sweep { done: Some(done), ..sweep });
    }

    /// Has the connections from an address to guarded ports ended, and tells when that is done.
    pub fn end_connections_from(&self, address: IpAddr, ports: Option<Vec<Port>>, done: Done) {
        let select = Box::new(move |connection: &Connection| {
            connection.source == address
                && ports.as_ref().is_none_or(|ports| ports.contains(&connection.port))
        });
        self.end_connections(Sweep { which: "that an admin has ended", select, done: Some(done) });
    }

    /// Has all connections to guarded ports ended that didn't come by a door, but those that need none.
    pub fn end_what_came_by_no_door(&self) {
        let select = Box::new(|connection: &Connection| connection.entry == Entry::Otherwise);
        self.end_connections(Sweep { which: "that came by no door", select, done: None });
    }
}

/// The connections that came through these doors.
pub(super) fn through(doors: HashSet<Door>, which: &'static str) -> Sweep {
    let select = move |connection: &Connection| {
        UnicastAddress::try_from(connection.source)
            .is_ok_and(|address| doors.contains(&Door { address, port: connection.port }))
    };
    Sweep { which, select: Box::new(select), done: None }
}
