//! A change of the table that was seen and not yet dealt with.

use crate::{
    firewall::{ruleset::TAGS, watch::Sighting},
    gate::clock::Uptime,
    reconcile::Reconciled,
};

/// Something that was seen and not yet dealt with.
pub(super) struct Case {
    pub(super) sighting: Sighting,
    pub(super) missing: Vec<String>,
    /// When the table was put in again.
    pub(super) shut: Option<Uptime>,
}

impl Case {
    pub(super) const fn of(sighting: Sighting) -> Self {
        Self { sighting, missing: Vec::new(), shut: None }
    }

    /// Whether the table was deleted, and not by putting it right.
    pub(super) fn lost_its_table(&self) -> bool {
        self.shut.is_none() && self.sighting.deleted_table()
    }

    pub(super) fn miss(&mut self, missing: String) {
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    pub(super) fn add(&mut self, Reconciled { doors, stray, bans }: &Reconciled) {
        if self.sighting.touched_elements_of(TAGS) {
            self.miss("tags of clients".to_owned());
        }
        if *doors > 0 {
            self.miss(format!("{doors} doors of live grants"));
        }
        if !stray.is_empty() {
            self.miss(format!("{} doors were open that nobody holds", stray.len()));
        }
        if *bans > 0 {
            self.miss(format!("{bans} bans"));
        }
    }

    /// Whether tags of clients may be missing.
    pub(super) fn may_lack_tags(&self) -> bool {
        let Self { sighting, missing, .. } = self;
        !missing.is_empty()
            || sighting.notice.incomplete
            || sighting.deleted_table()
            || sighting.replaced_table()
            || sighting.touched_elements_of(TAGS)
    }
}
