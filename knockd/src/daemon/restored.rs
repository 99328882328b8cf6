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
        Condition::Stopped => info!(
            packets = restored.packets,
            event = "memory-restored",
            "the memory of accepted packets is whole: the daemon had ended in order before the reboot"
        ),
        Condition::First => info!(
            event = "memory-begun",
            "nothing was ever accepted here: the state folder is marked as a new one"
        ),
        Condition::Missing => warn!(
            event = "memory-lost",
            "there is no memory of accepted packets: nothing stamped at or before {bound} is accepted"
        ),
        Condition::EarlierBoot => warn!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is from before a loss of power, or a kill and a reboot, and may not be whole: nothing stamped at or before {bound} is accepted"
        ),
        Condition::Damaged(damage) => error!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is damaged ({damage}): nothing stamped at or before {bound} is accepted"
        ),
    }
    if restored.lacking > 0 {
        warn!(
            packets = restored.lacking,
            event = "memory-behind",
            "the state folder lacked packets that were accepted in this boot: it was put back as it was, or the daemon was killed before the disk had them; they are remembered all the same"
        );
    }
    if !restored.has_twin {
        warn!(
            event = "memory-alone",
            "there is no second memory of accepted packets in /run: a state folder that is put back as it was within this boot isn't noticed, and each packet waits for the disk"
        );
    }
    if restored.seen != Condition::First {
        lost_counters::report_file(restored.counters);
    }
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
