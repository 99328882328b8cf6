//! What the system test shows, in its order. Each file is one topic; the first three stand for all that follow.

mod broker;
mod change;
mod container;
mod crash;
mod devices;
mod docker;
mod elsewhere;
mod essential;
mod figures;
mod firewalls;
mod hangs;
mod install;
pub(crate) mod journal;
mod other;
mod playbook;
mod purge;
mod reboot;
mod unkept;
mod untouched;
mod upgrade;
mod watching;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use clap::ValueEnum;

use crate::knocks::Fleet;
use crate::lan;
use crate::machine::Machine;
use crate::report::{Report, saw};

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// The door over a reboot.
    Reboot,
    /// Other firewalls are loaded, reloaded and stopped.
    Firewalls,
    /// Clients and configuration are changed.
    Change,
    /// An upgrade under a stream of knocks.
    Upgrade,
    /// kill -9 under a stream of knocks, and a stuck daemon.
    Crash,
    /// A journald that is stopped, and an nft that hangs.
    Hangs,
    /// A device with the client's package and its unit.
    Devices,
    /// The journal and its fields.
    Journal,
    /// Prometheus, and the doctor.
    Watching,
    /// Exposure, size, memory.
    Figures,
    /// The packages are removed.
    Purge,
    /// In the place of Debian's own knockd.
    Other,
    /// All of it by a playbook.
    Playbook,
    /// The essential ones on Debian 12, with an admin's own firewall.
    Essential,
    /// A disk that can't be written, from the first boot on.
    Unkept,
    /// A container that may make no namespaces.
    Container,
    /// Beside Docker.
    Docker,
}

/// What the scenes share.
pub(crate) struct Stage<'a> {
    pub(crate) report: &'a mut Report,
    pub(crate) broker: Machine,
    pub(crate) fleet: Fleet,
}

/// Plays them.
pub(crate) fn play(report: &mut Report, chosen: &[Scene]) {
    let is_chosen = |scene| chosen.is_empty() || chosen.contains(&scene);
    report.scene("A fresh Debian 13, and the packages");
    let booted = report.check("a fresh Debian boots, with a network of its own", || {
        lan::make();
        Machine::boot("broker", lan::BROKER)
    });
    let Some(broker) = booted else { return };
    let mut stage = Stage { report, broker, fleet: Fleet::new() };
    play_on(&mut stage, is_chosen);
    if stage.report.failures() > 0 {
        stage.broker.show_logs();
    }
}

fn play_on(stage: &mut Stage<'_>, is_chosen: impl Fn(Scene) -> bool) {
    if broker::play(stage).and_then(|()| install::play(stage)).is_none() {
        return;
    }
    type Play = fn(&mut Stage<'_>);
    let scenes: [(Scene, &str, Play); 17] = [
        (Scene::Reboot, "Reboot", reboot::play),
        (Scene::Journal, "The journal", journal::play),
        (Scene::Firewalls, "Other firewalls", firewalls::play),
        (Scene::Change, "Change on a running host", change::play),
        (Scene::Devices, "A device", devices::play),
        (Scene::Upgrade, "Upgrade under load", upgrade::play),
        (Scene::Crash, "Killed, and stuck", crash::play),
        (Scene::Hangs, "What hangs", hangs::play),
        (Scene::Watching, "Watched", watching::play),
        (Scene::Figures, "Figures", figures::play),
        (Scene::Purge, "Purge", purge::play),
        (Scene::Other, "In the place of Debian's knockd", other::play),
        (Scene::Playbook, "By a playbook", playbook::play),
        (Scene::Essential, "Debian 12, and a firewall of the admin's own", essential::play),
        (Scene::Unkept, "A disk that can't be written", unkept::play),
        (Scene::Container, "A container without rights", container::play),
        (Scene::Docker, "Beside Docker", docker::play),
    ];
    for (scene, title, play) in scenes {
        if is_chosen(scene) {
            stage.report.scene(title);
            let start = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| play(stage))).is_err() {
                stage.report.broke_off(title);
            }
            saw(&format!("this scene took {:.0} s", start.elapsed().as_secs_f64()));
        }
    }
}
