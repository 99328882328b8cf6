//! Sends what opens and closes the door, on all ways there are to the server, and knows which ones those were.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use common::{Action, OpenFor};

use crate::{
    exit::Error,
    keep::tell::{Event, Teller},
    nat, packet,
    plan::Plan,
    send::{self, Outcome, Route, Unreachable},
};

/// How a packet gets to an address of the server: there, and from where.
type Way = (SocketAddr, Option<IpAddr>);

/// All ways at one moment, and the addresses of the server that there is none to.
#[derive(Debug)]
pub(super) struct Ways {
    routes: Vec<Rc<Route>>,
    unreachable: Vec<Unreachable>,
}

impl Ways {
    /// Looks for them; nothing is sent.
    pub(super) fn look(plan: &Plan, to: &[SocketAddr]) -> Self {
        let (routes, unreachable) = send::routes(to, plan.address);
        Self { routes, unreachable }
    }

    pub(super) fn routes(&self) -> &[Rc<Route>] {
        &self.routes
    }

    fn list(&self) -> Vec<Way> {
        self.routes.iter().map(|way| (way.to, way.local())).collect()
    }
}

/// What was sent last.
#[derive(Debug, Default)]
pub(super) struct Knocker {
    last: Option<Vec<Way>>,
    warned: Vec<String>,
}

/// Whether a knock went another way than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Yes,
    No,
}

impl Knocker {
    /// Whether these are the ways that the last knock went.
    pub(super) fn is_settled_on(&self, ways: &Ways) -> bool {
        self.last.as_ref().is_some_and(|last| are_same(last, &ways.list()))
    }

    /// Sends one packet each way.
    ///
    /// # Errors
    /// If nothing could be sent at all.
    pub(super) fn knock(
        &mut self,
        plan: &mut Plan,
        ways: &Ways,
        teller: &mut Teller,
    ) -> Result<(Vec<Outcome>, Moved), Error> {
        let mut warnings: Vec<_> =
            ways.routes.iter().filter_map(|route| nat::warning(route)).collect();
        let outcomes = send(plan, ways)?;
        let mut packets = outcomes.iter().flat_map(|outcome| &outcome.packets);
        if !packets.all(packet::Packet::is_plausibly_stamped) {
            warnings.push(packet::IMPLAUSIBLE_CLOCK.to_owned());
        }
        warnings.extend(plan.clock.trouble().map(str::to_owned));
        self.warn(warnings, teller);
        for outcome in outcomes.iter().filter(|outcome| !outcome.packets.is_empty()) {
            teller.note(&Event {
                event: "sent",
                to: Some(outcome.route.to.to_string()),
                address: outcome.route.local().map(|local| local.to_string()),
                ..Event::default()
            });
        }
        let list = ways.list();
        let moved = match &self.last {
            Some(last) if are_same(last, &list) => Moved::No,
            Some(_) => {
                tell_moved(plan, &list, teller);
                Moved::Yes
            }
            None => Moved::Yes,
        };
        self.last = Some(list);
        Ok((outcomes, moved))
    }

    /// Closes the door, if it was ever knocked at, as well as it goes.
    pub(super) fn close(&self, plan: &mut Plan, to: &[SocketAddr], teller: &mut Teller) {
        if self.last.is_none() {
            return;
        }
        plan.ask.action = Action::Close;
        plan.ask.open_for = OpenFor::Default;
        match send(plan, &Ways::look(plan, to)) {
            Ok(_) => {
                teller.tell("the door is closed", &Event { event: "closed", ..Event::default() });
            }
            Err(error) => {
                let text =
                    format!("the door could not be closed, and ends with its grant: {error}");
                teller.complain(text, Event { event: "failed", ..Event::default() });
            }
        }
    }

    /// Warns of what was not warned of the last time.
    fn warn(&mut self, warnings: Vec<String>, teller: &Teller) {
        for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            teller.warn(warning);
        }
        self.warned = warnings;
    }
}

/// Whether both have the same ways, each of them once, in whatever order: resolvers change that of their answers.
fn are_same(one: &[Way], other: &[Way]) -> bool {
    one.len() == other.len() && one.iter().all(|way| other.contains(way))
}

fn send(plan: &mut Plan, ways: &Ways) -> Result<Vec<Outcome>, Error> {
    let outcomes = send::send(plan, &ways.routes)?;
    if outcomes.iter().all(|outcome| outcome.packets.is_empty()) {
        return Err(send::nothing_sent(&ways.unreachable, &outcomes));
    }
    Ok(outcomes)
}

fn tell_moved(plan: &Plan, list: &[Way], teller: &mut Teller) {
    let from: Vec<_> = list.iter().filter_map(|(_, from)| *from).map(|it| it.to_string()).collect();
    let from = from.join(" and ");
    let text = format!("the way to {} has changed: knocked from {from}", plan.server);
    teller.tell(&text, &Event { event: "network", address: Some(from), ..Event::default() });
}
