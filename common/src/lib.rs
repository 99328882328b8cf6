//! Wire format 1: the single authorization packet that opens a door.
//!
//! One UDP datagram of exactly [`DATAGRAM_LEN`] bytes. To anyone without the client's key every byte
//! of it looks random. This crate seals and opens it, derives the keys, and gives the request its
//! types; it has no clock, no randomness, no input or output, and allocates nothing, so that it runs
//! on a microcontroller as it runs in the daemon. With the feature `alloc` keys stand in boxes of their own, so that
//! moving them leaves no copies: that is for programs that hold keys for long.
//!
//! The order of calls is that of PROTOCOL.md: [`Datagram::parse`] (step 1), find the client by
//! [`Datagram::tag`] (step 2, the caller's directory), [`Datagram::open`] (steps 3 to 5). Steps 6 to
//! 10 need to know the time, the clients and the past: they are the daemon's. A [`Reply`] goes the other way.
//!
//! # Security considerations
//! - Nothing is decrypted before the mac over all of it is verified, in constant time.
//! - Keys are wiped from memory when they are dropped, and none of the types that hold one can be
//!   printed or compared.
//! - A request is handed out as typed values only: a byte that must be zero and isn't, an address
//!   that can't be a client's, a name of another form never leave this crate.
#![no_std]

mod error;
mod kept;
mod keys;
mod master;
mod packet;
mod reply;
mod request;
mod time;

pub use error::{Malformed, OpenError};
#[cfg(feature = "alloc")]
pub use kept::wipe_stack;
pub use keys::{ClientKeys, InvalidRealm, Realm, SECRET_LEN, Secret, WeakSecret};
pub use master::{InvalidName, MasterKey};
pub use packet::{
    DATAGRAM_LEN, Datagram, Mac, NONCE_LEN, Nonce, SealedDatagram, TAG_LEN, Tag, seal,
};
pub use reply::{DoorState, REPLY_LEN, Reply, ReplyError, ReplyKeys, SealedReply};
pub use request::{
    Action, ClientAddress, InvalidAddress, InvalidServiceName, OpenFor, REQUEST_LEN, ReplyWanted,
    Request, SERVICE_NAME_MAX, ServiceName, UnicastAddress,
};
pub use time::{Day, Timestamp};
