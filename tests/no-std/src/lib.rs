//! Links `common` into a library without `std` and without an allocator. See Cargo.toml.
#![no_std]

use common::{ClientKeys, Datagram, Day, Nonce, Realm, Request, SECRET_LEN, Secret, Timestamp};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Calls each of `common`'s rooms, so that all of it is linked.
pub fn seal_and_open(bytes: [u8; SECRET_LEN], request: &Request) -> bool {
    let (Ok(secret), Some(day)) = (Secret::new(bytes), Day::of(Timestamp::from_millis(0))) else {
        return false;
    };
    let keys = ClientKeys::derive(&secret, &Realm::default());
    let datagram = common::seal(&keys, day, Nonce::from_random([0; 12]), request);
    Datagram::parse(&datagram).is_ok_and(|datagram| datagram.open(&keys, day).is_ok())
}
