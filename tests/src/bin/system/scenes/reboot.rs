//! The machine is rebooted, with the port never open in between.

use std::thread::sleep;
use std::time::Duration;

use crate::lan::{Found, broker_is};
use crate::probes::Probes;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock, publish};
use crate::scenes::journal;
use crate::wait::wait;

/// Of how much of the stream somebody sends copies: they are fresh for longer.
const COPIES_OF: Duration = Duration::from_secs(25);

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &mut stage.broker);
    // Its boot flushes the whole ruleset, after the door's table went in.
    broker.run(&["systemctl", "--quiet", "enable", "nftables"]).success();
    report.check("a reboot never shows the port", || {
        close();
        let probes = Probes::start();
        sleep(Duration::from_secs(1));
        let took = broker.reboot();
        sleep(Duration::from_secs(1));
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
        assert!(gap > Duration::from_millis(100), "was it away at all? {gap:?}");
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
    report.check("and a knock opens it", || {
        knock(&["--wait"]).success();
        publish("after the reboot").success();
        close();
    });
    report.check("rebooted under a stream of knocks, the first one after the network is up opens, and none opens twice", || {
        let cursor = journal::cursor(broker);
        let (stream, probes) = (stage.fleet.stream(), Probes::start());
        sleep(Duration::from_secs(1));
        broker.reboot();
        // What somebody heard before the reboot, during it and after it.
        let copies = stream.send_copies(COPIES_OF);
        let (seen, knocks) = (probes.stop(), stream.stop());
        let back = seen.back().expect("the network was up before and after");
        let after = knocks.since(back);
        after.all_granted(broker);
        saw(&format!(
            "{} knocks, {} of them after the network was up again, all granted; {copies} copies sent",
            knocks.count(),
            after.count()
        ));
        let refused = || journal::entries(broker, &cursor, &["KNOCKD_REASON=replayed"]).len();
        wait("copies are refused as replayed", || refused() > 0);
        let told = knocks.told(broker, &cursor);
        let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "granted more than once: {twice:?}");
        assert!(told.len() > after.count(), "what was granted before the reboot was not told");
    });
    broker.run(&["systemctl", "--quiet", "disable", "nftables"]).success();
}
