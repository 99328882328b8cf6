//! Tells what an earlier run left behind, and what of it is lost.

use tracing::{error, info, warn};

use crate::{
    journal::seen::Condition,
    lost_counters,
    restore::{FileCondition, Restored},
    telemetry,
};

/// Tells it.
pub(super) fn report(restored: &Restored) {
    let bound = restored.refused_up_to.map(telemetry::rfc3339).unwrap_or_default();
    match restored.seen {
        Condition::Intact => {
            info!(
                packets = restored.packets,
                event = "memory-restored",
                "the memory of accepted packets is whole"
            )
        }
        Condition::Missing => warn!(
            event = "memory-lost",
            "there is no memory of accepted packets: nothing stamped at or before {bound} is accepted"
        ),
        Condition::EarlierBoot => warn!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is from before a reboot and may not be whole: nothing stamped at or before {bound} is accepted"
        ),
        Condition::Damaged(damage) => error!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is damaged ({damage}): nothing stamped at or before {bound} is accepted"
        ),
    }
    lost_counters::report_file(restored.counters);
    if let Some(what) = lost(restored.grants) {
        error!(
            event = "state-lost",
            "the file of grants is {what}: grants that were live are over"
        );
    }
    if let Some(what) = lost(restored.bans) {
        error!(
            event = "state-lost",
            "the file of bans is {what}: sources that were banned no longer are"
        );
    }
    if restored.mended > 0 {
        warn!(
            changed = restored.mended,
            event = "kernel-settled",
            "doors and bans in the kernel were made to match the live grants and bans"
        );
    }
    info!(
        grants = restored.live,
        bans = restored.banned,
        event = "restored",
        "live grants and bans taken up"
    );
}

fn lost(condition: FileCondition) -> Option<&'static str> {
    match condition {
        FileCondition::Sound => None,
        FileCondition::Damaged => Some("damaged"),
        FileCondition::Gone => Some("gone"),
    }
}
