//! How many connections are served at once: a share for each user, a bound for all of them, and places for root that
//! nobody else can take.
//!
//! # Security considerations
//! - Whoever finds no place is told so and hung up on at once. Nobody waits behind connections that say nothing, and
//!   the socket's backlog doesn't fill.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Connections of root.
pub const OF_ROOT: usize = 64;
/// Connections of one other user.
pub const OF_ONE: usize = 8;
/// Connections of all users but root.
pub const OF_OTHERS: usize = 64;

/// Who has how many connections.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    uid: u32,
    places: Places,
}

impl Places {
    /// A place for a connection of this user; `None` if his share or the others' is taken.
    #[must_use]
    pub fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&uid).copied().unwrap_or(0);
        let fits = if uid == 0 {
            own < OF_ROOT
        } else {
            let others: usize =
                taken.iter().filter(|(uid, _)| **uid != 0).map(|(_, own)| own).sum();
            own < OF_ONE && others < OF_OTHERS
        };
        fits.then(|| {
            taken.insert(uid, own + 1);
            Place { uid, places: self.clone() }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.uid).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.uid);
        } else {
            taken.insert(self.uid, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_its_share_all_users_theirs_and_root_always_has_places() {
        let places = Places::default();
        let mut held: Vec<_> = (0..OF_ONE).map(|_| places.take(1000).unwrap()).collect();
        assert!(places.take(1000).is_none(), "more than a share");
        for uid in 1001.. {
            if held.len() == OF_OTHERS {
                break;
            }
            held.push(places.take(uid).unwrap());
        }
        assert!(places.take(5000).is_none(), "more than all others' places");
        let root: Vec<_> = (0..OF_ROOT).map(|_| places.take(0).unwrap()).collect();
        assert!(places.take(0).is_none());
        held.swap_remove(0);
        assert!(places.take(1000).is_some(), "a place that is free again");
        drop((root, held));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
