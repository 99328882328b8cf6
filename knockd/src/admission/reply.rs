//! Which packets of a batch are to be answered, and with what. PROTOCOL.md, "Reply".
//!
//! # Security considerations
//! Only what the kernel has confirmed is answered: a packet that was granted its door, or whose grant is over. A copy
//! is refused before it gets here, and so is every packet of a stranger.

use common::{DoorState, Mac, Nonce, Reply, SealedReply, UnicastAddress};

use super::{Admission, Outcome, PacketId, Pending};
use crate::gate::{clock::Now, decision::ReplySeal};

/// A reply that is due.
#[derive(Debug)]
pub struct ReplyDue {
    /// The packet that it answers.
    pub packet: PacketId,
    asked: Asked,
    reply: Reply,
}

/// Who asked for a reply.
#[derive(Debug)]
pub(super) struct Asked {
    id: PacketId,
    seal: ReplySeal,
    request: Mac,
    seen: UnicastAddress,
}

impl ReplyDue {
    /// The reply as it goes out. `nonce` was drawn for it alone.
    #[must_use]
    pub fn seal(&self, nonce: Nonce) -> SealedReply {
        self.reply.seal(&self.asked.seal.0, self.asked.request, nonce)
    }
}

impl Pending {
    /// Who is to hear what became of it, if somebody asked and may.
    pub(super) fn asked(&self) -> Option<Asked> {
        let (request, seen) = (self.accepted.mac, self.accepted.address);
        let seal = self.accepted.reply.clone()?;
        Some(Asked { id: self.id, seal, request, seen })
    }
}

impl Asked {
    /// The reply to a packet of which this became.
    pub(super) fn answered(self, outcome: &Outcome, now: Now) -> Option<ReplyDue> {
        let door = match outcome {
            Outcome::Granted { until, .. } => DoorState::OpenUntil(now.utc_of(*until)),
            Outcome::Closed { .. } => DoorState::Closed,
            _ => return None,
        };
        let reply = Reply { clock: now.utc, seen: self.seen, door };
        Some(ReplyDue { packet: self.id, asked: self, reply })
    }
}

impl<F, D> Admission<F, D> {
    /// The replies to the last batch; none are left.
    pub fn take_replies(&mut self) -> Vec<ReplyDue> {
        std::mem::take(&mut self.replies)
    }
}
