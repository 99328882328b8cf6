//! Where a secret stands, from when it is made until it is wiped.
//!
//! # Security considerations
//! - Rust moves a value by copying its bytes, and wipes nothing behind. With the feature `alloc` a secret stands in a
//!   box of its own: what moves is the pointer to it, and when it is dropped, no copy was made that isn't wiped. It is
//!   written there in place, too. Without the feature it stands within its owner, and whoever moves that leaves copies.
//! - What the algorithms leave on the stack is written over by [`wipe_stack`], for who has a stack that stays.

#[cfg(feature = "alloc")]
extern crate alloc;

use core::ops::{Deref, DerefMut};

use zeroize::Zeroize;

#[cfg(feature = "alloc")]
type Place<T> = alloc::boxed::Box<T>;
#[cfg(not(feature = "alloc"))]
type Place<T> = T;

/// A secret in its place. It is wiped when dropped, has no `Debug` and no equality.
pub(crate) struct Kept<T: Zeroize>(Place<T>);

impl<T: Zeroize + Default> Kept<T> {
    /// A place with nothing in it yet: the secret is written there.
    #[cfg_attr(
        not(feature = "alloc"),
        expect(clippy::useless_conversion, reason = "it isn't with it")
    )]
    pub(crate) fn empty() -> Self {
        Self(T::default().into())
    }
}

impl<T: Zeroize> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize + Default + Copy> Clone for Kept<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::empty();
        *copy = **self;
        copy
    }
}

impl<T: Zeroize> Drop for Kept<T> {
    fn drop(&mut self) {
        T::zeroize(self);
    }
}

/// How far [`wipe_stack`] writes: more than sealing, opening and deriving use, also without optimizations.
#[cfg(feature = "alloc")]
const STACK_USED: usize = 64 * 1024;

/// Writes over what calls that have returned left on this thread's stack: parts of keys that the algorithms had there.
/// To be called where keys are done with, no deeper than they were used.
#[cfg(feature = "alloc")]
#[inline(never)]
pub fn wipe_stack() {
    let mut used = [0xff_u8; STACK_USED];
    used.zeroize();
    core::hint::black_box(&used);
}
