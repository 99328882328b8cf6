//! Watched by a real Prometheus, and looked at by the doctor.

use crate::machine::Machine;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock};
use crate::wait::{wait, wait_some};

/// Where the package puts the alerts.
const RULES: &str = "/usr/share/doc/knockd-spa/examples/knockd.rules.yml";
/// What Prometheus is told: to look often, so that the test needn't wait.
const PROMETHEUS: &str = "/etc/prometheus/prometheus.yml";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    report.check("a Prometheus scrapes what [metrics] tells, and knows the alerts", || {
        broker.sh("sed -i 's/^\\[metrics\\]$/&\\nlisten = \"127.0.0.1:9162\"/' /etc/knockd/knockd.toml");
        broker.run(&["systemctl", "restart", "knockd"]).success();
        saw(&broker.run(&["promtool", "check", "rules", RULES]).success().stdout);
        broker.write(
            PROMETHEUS,
            &format!(
                "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{RULES}]\n\
                 scrape_configs:\n- job_name: knockd\n  static_configs: [{{ targets: ['127.0.0.1:9162'] }}]\n"
            ),
        );
        broker.run(&["promtool", "check", "config", PROMETHEUS]).success();
        broker.run(&["systemctl", "restart", "prometheus"]).success();
        wait("Prometheus has scraped the daemon", || {
            value(broker, "up{job=\"knockd\"}") == Some(1.0)
        });
        assert_eq!(value(broker, "knockd_table_whole"), Some(1.0));
    });
    report.check("a grant is in its figures, and no alert about the door fires", || {
        let granted = "sum(knockd_decisions_total{decision=\"granted\"})";
        let before = value(broker, granted).unwrap_or(0.0);
        knock(&["--wait"]).success();
        let after = wait_some("Prometheus sees the grant", || {
            value(broker, granted).filter(|after| *after > before)
        });
        saw(&format!("{granted}: {before}, and {after} after a knock"));
        let status: serde_json::Value =
            broker.run(&["knockd", "status", "--json"]).success().json();
        assert_eq!(status["decisions"]["granted"].as_f64(), Some(after), "{status}");
        let firing =
            broker.sh(&query("ALERTS{alertstate=\"firing\",alertname=~\"Knockd(Down|Table.*)\"}"));
        assert_eq!(firing.trim(), "", "alerts");
        close();
        broker.run(&["systemctl", "stop", "prometheus"]).success();
    });
    report.check("the doctor finds no fault on a sound host", || {
        let doctor = broker.run(&["knockd", "doctor"]);
        saw(&doctor.stdout);
        assert!(doctor.is_success(), "{doctor}");
    });
    report.check("the doctor names the rule that drops what the door let in, and how to mend it", || {
        broker.sh(
            "nft 'add table inet strict; add chain inet strict in { type filter hook input priority 10; }; \
             add rule inet strict in tcp dport 8883 drop'",
        );
        let doctor = broker.run(&["knockd", "doctor"]);
        broker.run(&["nft", "delete", "table", "inet", "strict"]).success();
        doctor.stdout.lines().filter(|line| line.contains("strict")).for_each(saw);
        assert!(!doctor.is_success() && doctor.stdout.contains("inet strict"), "{doctor}");
    });
}

/// What Prometheus answers to a query: the first value.
fn value(machine: &Machine, text: &str) -> Option<f64> {
    // As in: `up{instance="127.0.0.1:9162", job="knockd"} => 1 @[1732562400.123]`.
    let answer = machine.run(&["sh", "-ec", &query(text)]).stdout;
    let (_, rest) = answer.lines().next()?.split_once("=> ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn query(text: &str) -> String {
    format!("promtool query instant http://127.0.0.1:9090 '{text}'")
}
