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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::decision::{StaleBound, Staleness};

    fn mac(number: usize) -> Mac {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Mac::from_bytes(bytes)
    }

    #[test]
    fn a_packet_is_news_once_whatever_its_copies_are_refused_for_and_hides_nothing_else() {
        let stale = Reason::Stale(Staleness { difference_ms: -9, bound: StaleBound::Skew });
        let mut copies = Copies::default();
        assert!(copies.is_first(mac(1), &Reason::Replayed));
        assert!(!copies.is_first(mac(1), &Reason::Replayed));
        assert!(!copies.is_first(mac(1), &stale));
        assert!(copies.is_first(mac(1), &Reason::ServiceNotAllowed(None)));
        assert!(!copies.is_first(mac(1), &Reason::ServiceNotAllowed(None)));
        assert!(copies.is_first(mac(2), &stale));
    }

    #[test]
    fn of_more_packets_than_are_remembered_the_oldest_is_forgotten() {
        let mut copies = Copies::default();
        assert!((0..=PACKETS).all(|number| copies.is_first(mac(number), &Reason::Replayed)));
        assert_eq!((copies.told.len(), copies.order.len()), (PACKETS, PACKETS));
        assert!(!copies.is_first(mac(1), &Reason::Replayed));
        assert!(copies.is_first(mac(0), &Reason::Replayed));
    }
}
