//! A table that an admin has put in after changing the configuration (`knockd firewall install`): taken for right, and
//! kept from then on.
//!
//! # Security considerations
//! - Only a table whose comments say that it is one of ours, and not the one that is kept, is looked into; it stays
//!   until the configuration has been read, on another thread. If it isn't what follows from the configuration as it is
//!   now, it goes.

use std::{io, sync::Arc, thread};

use tokio::sync::oneshot;
use tracing::info;

use super::Mender;
use crate::firewall::{
    listing::Listing,
    ruleset::{Ruleset, TABLE},
    table::{self, TableState},
    template::Template,
    verify,
};

/// The table that follows from the configuration's file as it is now; `None` if that is the one that is in force,
/// or is no good. Reads files.
pub type Newer = Arc<dyn Fn() -> Option<Ruleset> + Send + Sync>;

/// A newer table, if there is one, as soon as it is known.
pub(super) type Adopting = oneshot::Receiver<Option<Template>>;

/// Whether a table that isn't the one that is kept may be that of a newer configuration.
pub(super) fn may_be_newer(kept: &Template, found: &Listing) -> bool {
    !verify::outline(kept.ruleset(), found).is_empty() && verify::is_as_put_in(found)
}

/// Has the configuration read, and its table said to the kernel by nft.
///
/// # Errors
/// If there can be no thread.
pub(super) fn begin(newer: Newer) -> io::Result<Adopting> {
    let (found, adopting) = oneshot::channel();
    thread::Builder::new().name("adopt".to_owned()).spawn(move || {
        let template = newer().and_then(|ruleset| Template::of(&ruleset).ok());
        // Whoever asked has ended.
        let _ = found.send(template);
    })?;
    Ok(adopting)
}

impl Mender {
    /// Keeps a newer table from here on if it is the one that was found.
    pub(super) fn adopt(&mut self, newer: Option<Template>, found: &Listing) {
        let Some(newer) = newer else { return };
        if table::compare(&newer, Some(found)) == TableState::Whole {
            info!(
                event = "table-followed",
                "table {TABLE} follows the configuration as it is now: kept so from here on"
            );
            self.template = newer;
        }
    }
}
