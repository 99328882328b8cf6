//! The machine is rebooted, with the port never open in between.

use crate::lan::{Found, broker_is};
use crate::probes::Probes;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{SKEW, close, knock, publish};
use crate::wait::{pass, wait};

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &mut stage.broker);
    // Its boot flushes the whole ruleset, after the door's table went in.
    broker.run(&["systemctl", "--quiet", "enable", "nftables"]).success();
    let rebooted = report.check("a reboot never shows the port", || {
        close();
        let probes = Probes::start();
        std::thread::sleep(std::time::Duration::from_secs(1));
        let took = broker.reboot();
        std::thread::sleep(std::time::Duration::from_secs(1));
        let seen = probes.stop();
        saw(&format!(
            "rebooted in {:.1} s, away from the network for {:.1} s of it; {} connections to the guarded port, \
             none answered; {} to another port, answered",
            took.as_secs_f64(),
            seen.longest_gap().as_secs_f64(),
            seen.probes,
            seen.network.len()
        ));
        seen.never_answered();
        let gap = seen.longest_gap();
        assert!(gap > std::time::Duration::from_millis(100), "was it away at all? {gap:?}");
        std::time::Instant::now()
    });
    report.check("after it, all units are up and the table is whole", || {
        for unit in [
            "knockd.service",
            "knockd.socket",
            "knockd-firewall.service",
            "mosquitto.service",
            "nftables.service",
        ] {
            assert_eq!(broker.show(unit, "ActiveState"), "active", "{unit}");
        }
        saw(&broker.run(&["knockd", "firewall", "status"]).success().stdout);
        broker_is(Found::Silence);
    });
    report.check("and a knock opens it, when the first half minute is over", || {
        let since = rebooted.map_or(SKEW, |at| at.elapsed());
        pass(SKEW.saturating_sub(since), "what was sent before the boot is refused that long");
        wait("a knock after the reboot is taken", || knock(&["--wait=1s"]).is_success());
        publish("after the reboot").success();
        close();
    });
    broker.run(&["systemctl", "--quiet", "disable", "nftables"]).success();
}
