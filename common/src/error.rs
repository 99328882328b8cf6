//! Why a datagram is not a client's request. Each is a value that a stranger can cause, never a panic.

/// What is wrong with a datagram, in the order in which it is found. PROTOCOL.md, steps 1 and 3 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Step 1 or 5: the length or a field of the request is not as the format has it.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Step 3: the mac is not this client's for these bytes.
    #[error("the mac does not match")]
    BadMac,
    /// Step 4: the mac matches, the seal does not open.
    #[error("the seal does not open")]
    BadSeal,
}

/// Which part of a datagram is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The datagram is not 116 bytes long.
    #[error("the length is not 116 bytes")]
    Length,
    /// The timestamp falls on another day than the tag is for.
    #[error("the timestamp is of another day than the tag")]
    Day,
    /// The address can't be a client's: see [`crate::InvalidAddress`].
    #[error("the address can't be a client's")]
    Address,
    /// The action is neither open (1) nor close (2).
    #[error("the action is unknown")]
    Action,
    /// A flag other than bit 0 is set.
    #[error("a reserved flag is set")]
    Flags,
    /// A reserved byte is not zero.
    #[error("a reserved byte is not zero")]
    Reserved,
    /// The service's name has another form: see [`crate::ServiceName`].
    #[error("the service's name has another form")]
    Service,
}
