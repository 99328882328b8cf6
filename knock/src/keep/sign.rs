//! What shows that the door is open, and how that is told.

use std::{net::IpAddr, time::Duration};

use common::DoorState;

use crate::{
    keep::tell::{self, Event},
    plan::Plan,
    probes::{Accepted, NO_PROOF, Proof},
    reply::Replied,
};

/// What shows that the door is open.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sign {
    /// Its port accepts.
    Accepted(Accepted),
    /// The server says so.
    Replied(Replied),
    /// Nothing can.
    None,
}

impl Sign {
    /// Whether it shows that the knock has opened it.
    pub(super) fn is_proof(self) -> bool {
        match self {
            Self::Accepted(accepted) => accepted.proof == Proof::Yes,
            Self::Replied(_) => true,
            Self::None => false,
        }
    }

    /// The server's address at which it is.
    pub(super) fn at(self) -> Option<IpAddr> {
        match self {
            Self::Accepted(accepted) => Some(accepted.by),
            Self::Replied(replied) => Some(replied.by.ip()),
            Self::None => None,
        }
    }

    /// How long the grant is, where the server says it.
    pub(super) fn grant(self) -> Option<Duration> {
        match self {
            Self::Replied(Replied { reply, .. }) => match reply.door {
                DoorState::OpenUntil(until) => {
                    let left = until.as_millis().saturating_sub(reply.clock.as_millis());
                    Some(Duration::from_millis(left))
                }
                DoorState::Closed => None,
            },
            Self::Accepted(_) | Self::None => None,
        }
    }

    fn after(self) -> Option<Duration> {
        match self {
            Self::Accepted(accepted) => Some(accepted.after),
            Self::Replied(replied) => Some(replied.after),
            Self::None => None,
        }
    }

    /// A line for people, and the event for machines.
    pub(super) fn told(self, plan: &Plan) -> (String, Event) {
        let port = plan.port.map(|port| port.to_string());
        let shown = port.as_deref().unwrap_or("the door");
        let text = match self {
            Self::Accepted(Accepted { by, proof: Proof::Yes, .. }) => {
                format!("{shown} open at {by}, and kept open")
            }
            Self::Accepted(Accepted { by, proof: Proof::No, .. }) => {
                format!("{shown} accepts at {by}, {NO_PROOF}; knocking on")
            }
            Self::Replied(Replied { by, reply, .. }) => {
                format!("{shown} open at {} for {}, and kept open", by.ip(), reply.seen)
            }
            Self::None => format!(
                "knocked at {}, and going on: without a tcp port in the profile, or --reply, nothing shows whether the door is open",
                plan.server
            ),
        };
        let event = Event {
            event: "open",
            to: self.at().map(|at| at.to_string()),
            port,
            proven: Some(self.is_proof()),
            after_ms: self.after().map(tell::millis),
            ..Event::default()
        };
        (text, event)
    }
}
