//! Which refused packets were told of already: a copy of one needs no key to send, and is no news.

use std::collections::{HashSet, VecDeque};

use common::Mac;

use crate::gate::decision::Reason;

/// Packets that are remembered; of further ones the oldest is forgotten, and told of again.
const PACKETS: usize = 16_384;

/// The packets.
#[derive(Debug, Default)]
pub(super) struct Copies {
    told: HashSet<Packet>,
    order: VecDeque<Packet>,
}

/// A packet, and what it was refused for: what a copy can bring about is all one, and hides nothing else.
type Packet = (Mac, Option<&'static str>);

impl Copies {
    /// Whether this is the first of the refusals of a packet.
    pub(super) fn is_first(&mut self, packet: Mac, reason: &Reason) -> bool {
        let what = match reason {
            Reason::Replayed | Reason::Stale(_) | Reason::AddressMismatch { .. } => None,
            other => Some(other.name()),
        };
        let is_first = self.told.insert((packet, what));
        if is_first {
            self.order.push_back((packet, what));
            if self.order.len() > PACKETS
                && let Some(oldest) = self.order.pop_front()
            {
                self.told.remove(&oldest);
            }
        }
        is_first
    }
}
