//! Who holds the most grants, for the refusal that tells that no more fit.

use std::time::Duration;

use super::Failure;
use crate::gate::{
    clock::{Now, Uptime},
    directory::Directory,
    grants::Grants,
};

/// How old the answer may be: finding it looks at every client that holds anything, and whoever is refused can have it
/// looked for again and again.
const FRESH: Duration = Duration::from_secs(1);

/// Who held the most when it was looked up last.
#[derive(Debug)]
pub(super) struct Fullest {
    looked: Option<Uptime>,
    /// The client's name, and how many grants it held.
    found: Option<(Box<str>, usize)>,
}

impl Fullest {
    pub(super) const fn unknown() -> Self {
        Self { looked: None, found: None }
    }

    /// Why a packet is refused for which there is no room among the grants.
    pub(super) fn failure(&mut self, grants: &Grants, directory: &Directory, now: Now) -> Failure {
        if self.looked.is_none_or(|looked| looked + FRESH <= now.uptime) {
            let found = grants.fullest();
            self.found = found.map(|(client, count)| (directory.name(client).into(), count));
            self.looked = Some(now.uptime);
        }
        Failure::GrantsFull { most: self.found.clone() }
    }
}
