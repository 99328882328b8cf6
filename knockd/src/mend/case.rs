//! A change of the table that was seen and not yet dealt with.

use crate::{
    firewall::{
        kernel::{read_ban, read_door},
        notice::{Deed, Notice, Object, Touched},
        ruleset::{DOOR4, DOOR6, TAGS},
        watch::Sighting,
    },
    gate::{bans::Bans, clock::Uptime, grants::Grants},
    reconcile::{InDoubt, Reconciled},
};

/// Something that was seen and not yet dealt with.
pub(super) struct Case {
    pub(super) sighting: Sighting,
    pub(super) missing: Vec<String>,
    /// The table was there again when it was to be put in.
    pub(super) came_back: bool,
    /// When the table was put in again.
    pub(super) shut: Option<Uptime>,
    /// It was put in with sets that are empty, or lack something.
    pub(super) emptied: bool,
    /// All sets were put in anew, with all that is to be in them.
    pub(super) is_known: bool,
    /// It was put in without tags.
    pub(super) lacks_tags: bool,
    /// The configuration was read, to see whether the table follows from it as it is now.
    pub(super) was_compared_with_newer: bool,
}

impl Case {
    pub(super) const fn of(sighting: Sighting) -> Self {
        Self {
            sighting,
            missing: Vec::new(),
            came_back: false,
            shut: None,
            emptied: false,
            is_known: false,
            lacks_tags: false,
            was_compared_with_newer: false,
        }
    }

    /// Whether the table was deleted, and not by putting it right.
    pub(super) fn lost_its_table(&self) -> bool {
        self.shut.is_none() && self.sighting.deleted_table()
    }

    /// Whether the table was deleted, and not put in again since.
    pub(super) fn saw_its_table_go(&self) -> bool {
        let Notice { touched, incomplete, .. } = &self.sighting.notice;
        let was_put_in = |it: &Touched| it.object == Object::Table && it.deed == Deed::Added;
        let is_away = self.sighting.put_in.is_none() && !self.came_back && !incomplete;
        self.lost_its_table() && is_away && !touched.iter().any(was_put_in)
    }

    /// Takes note of a table that was put in again where it was deleted, with sets that are empty.
    pub(super) fn note_what_was_put_in(&mut self) {
        if let Some(put_in) = self.sighting.put_in.take() {
            self.miss("the whole table".to_owned());
            self.shut = Some(put_in);
            (self.emptied, self.lacks_tags) = (true, true);
        }
    }

    pub(super) fn miss(&mut self, missing: String) {
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    pub(super) fn add(&mut self, Reconciled { doors, stray, bans, .. }: &Reconciled) {
        // A table that took the place of ours brought its tags along.
        if self.sighting.touched_elements_of(TAGS) && !self.sighting.replaced_table() {
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

    /// The doors and bans that were touched, and what isn't as it ought to be among them.
    pub(super) fn touched(
        &self,
        grants: &Grants,
        bans: &Bans,
        now: Uptime,
    ) -> (InDoubt, Reconciled) {
        let (mut touched, mut reconciled) = (InDoubt::default(), Reconciled::default());
        for ((set, key), deed) in &self.sighting.notice.elements {
            let is_added = *deed != Deed::Deleted;
            if let Some((source, kind)) = read_ban(set, key) {
                let holds = bans.get(source).is_some_and(|it| it.kind == kind && it.until > now);
                reconciled.bans += usize::from(holds || is_added);
                touched.bans.insert((source, kind));
            } else if let Some(door) = read_door(key).filter(|_| set == DOOR4 || set == DOOR6) {
                let is_live = grants.open_until(&door).is_some_and(|until| until > now);
                if is_live {
                    reconciled.doors += 1;
                } else if is_added {
                    reconciled.stray.push(door);
                }
                touched.doors.insert(door);
            }
        }
        (touched, reconciled)
    }

    /// Whether tags of clients may be missing.
    pub(super) fn may_lack_tags(&self) -> bool {
        let Self { sighting, .. } = self;
        self.lacks_tags
            || sighting.notice.incomplete
            || sighting.deleted_table()
            || sighting.replaced_table()
            || sighting.touched_elements_of(TAGS)
            || sighting.touched_set(TAGS)
    }
}
