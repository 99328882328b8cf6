//! Every mistake of a table, by its line; the first of them are told.

use std::{collections::BTreeMap, path::Path};

use crate::commands::{Exit, Failure};

/// How many are told.
const TOLD: usize = 20;

/// The mistakes so far.
#[derive(Default)]
pub(super) struct Complaints {
    /// By line, and by their order in it.
    first: BTreeMap<(u64, usize), String>,
    count: usize,
}

impl Complaints {
    /// Adds one.
    pub(super) fn add(&mut self, line: u64, what: impl Into<String>) {
        self.first.insert((line, self.count), what.into());
        self.count += 1;
        if self.first.len() > TOLD {
            self.first.pop_last();
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The failure that they are, if there is one.
    ///
    /// # Errors
    /// [`Exit::DataErr`] with the first of them.
    pub(super) fn or_fail(&self, file: &Path) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = self
            .first
            .iter()
            .map(|((line, _), what)| format!("{}:{line}: {what}", file.display()))
            .collect();
        if self.count > TOLD {
            lines.push(format!("and {} mistakes more", self.count - TOLD));
        }
        lines.push("nothing was changed: mend FILE, and import it again".to_owned());
        Err(Failure::new(Exit::DataErr, lines.join("\n")))
    }
}
