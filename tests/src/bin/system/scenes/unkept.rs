//! A host whose disk can't be written, from its first boot on: the folders of the state were never made.

use crate::lan::Found;
use crate::machine::{Root, Setup};
use crate::report::saw;
use crate::rootfs::Release;
use crate::scenes::Stage;
use crate::scenes::elsewhere::Elsewhere;
use crate::wait::wait;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let report = &mut *stage.report;
    let booted = report.check("with a read-only root, the first boot shuts the port", || {
        let setup = Setup { root: Root::ReadOnly, ..Setup::of(Release::Trixie) };
        let other = Elsewhere::boot("unkept", setup, |machine| {
            Elsewhere::in_image(machine);
            // As in an image whose /var is made anew.
            machine.in_image("rm -r /var/lib/knockd /var/lib/knockd-firewall");
        });
        other.is(Found::Silence);
        for unit in ["knockd-firewall.service", "knockd.socket", "knockd.service"] {
            assert_eq!(other.machine.show(unit, "ActiveState"), "active", "{unit}");
        }
        other
    });
    let Some(other) = booted else { return };
    report.check("what can't be kept is told, and a knock opens the port", || {
        let told = other.machine.sh("journalctl -q -b -t knockd -o cat");
        assert!(told.contains("Until that is mended the state is in /run/knockd-state"), "{told}");
        assert!(
            told.contains("/var/lib/knockd-firewall/table.nft: the table can't be kept"),
            "{told}"
        );
        told.lines().filter(|line| line.contains("Read-only")).for_each(saw);
        wait("a knock is taken", || other.knock(&["--wait=1s"]).is_success());
        other.is(Found::Open);
    });
    report.check("a grant outlives kill -9 all the same, and its packet stays a replay", || {
        let before = other.machine.daemon().expect("the daemon runs");
        other.machine.run(&["kill", "-9", &before.to_string()]).success();
        other.machine.until_daemon_is_another(before);
        other.is(Found::Open);
        let told = other.machine.sh("journalctl -q -b -t knockd -o cat");
        assert!(told.contains("the memory of accepted packets is whole"), "{told}");
    });
    if report.failures() > 0 {
        other.machine.show_logs();
    }
}
