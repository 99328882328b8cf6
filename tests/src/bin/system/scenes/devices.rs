//! A device: a machine with the client's package and an MQTT client's unit, as README.md says it; in a user namespace, so
//! that it can be without further ones.

use crate::lan::SENSOR;
use crate::machine::{Machine, Setup, Users};
use crate::packages::{CLIENT, Version};
use crate::report::{Report, saw};
use crate::rootfs::Release;
use crate::scenes::Stage;
use crate::scenes::figures::{EXPOSURE, exposure};
use crate::scenes::{broker, install};
use crate::wait::wait;

/// The unit of an MQTT client, as a user would write it.
const UNIT: &str = "[Unit]
Description=publishes a reading
Wants=knock@broker.service
After=knock@broker.service

[Service]
Type=oneshot
Restart=on-failure
RestartSec=1
ExecStart=/usr/bin/mosquitto_pub LOGIN -q 1 -t sensor/1 -m reading --retain
";

/// The unit of one whose session lives for days.
const KEPT: &str = "[Unit]
Description=listens
PartOf=knock-keep@broker.service
After=knock-keep@broker.service

[Service]
ExecStart=/usr/bin/mosquitto_sub LOGIN -k 60 -q 1 -t order/#
Restart=always
RestartSec=1

[Install]
WantedBy=knock-keep@broker.service
";

/// Something that the time is waited for by, and that never ends.
const NO_TIME: &str = "[Unit]
DefaultDependencies=no
Before=time-sync.target
Wants=time-sync.target

[Service]
Type=oneshot
ExecStart=/bin/sleep infinity
";

/// The highest exposure of a keeper's unit, as `systemd-analyze security` counts it, 0 to 10: it hears of the network's
/// changes by AF_NETLINK, and has no user namespace.
const KEEPER_EXPOSURE: f64 = 1.6;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    let booted = report.check("a device boots, and apt installs the client", || {
        let setup = Setup { users: Users::Own, ..Setup::of(Release::Trixie) };
        let sensor = Machine::boot_as(setup, "sensor", SENSOR, |_| ());
        sensor.limit_namespaces("user", 0);
        install::install(&sensor, CLIENT, Version::Current);
        saw(&sensor.sh(&format!(
            "dpkg-query -W -f '${{Installed-Size}} KiB; depends: ${{Depends}}' {CLIENT}"
        )));
        sensor
    });
    let Some(mut sensor) = booted else { return };
    report.check(
        "its MQTT client's unit wants knock@broker.service, and publishes, without user namespaces",
        || {
            let add =
                ["knockd", "client", "add", "sensor", "--service", "mqtts", "--server", "broker"];
            let profile = broker.run(&add).success().stdout;
            broker.run(&["systemctl", "reload", "knockd"]).success();
            sensor.run(&["mkdir", "-p", "/etc/knock"]).success();
            sensor.write_as("/etc/knock/knock.toml", &profile, 0o600);
            broker::give_ca(broker, &sensor);
            let login = broker::login("broker", "/etc/ssl/broker-ca.crt").join(" ");
            let unit = UNIT.replace("LOGIN", &login);
            sensor.write(
                "/etc/systemd/system/reading.service",
                &format!("{unit}\n[Install]\nWantedBy=multi-user.target\n"),
            );
            sensor.run(&["systemctl", "daemon-reload"]).success();
            let started = sensor.run(&["systemctl", "start", "reading"]);
            assert!(
                started.is_success(),
                "{started}\n{}",
                sensor.sh("journalctl -q -n 30 -u 'knock@*' -u reading")
            );
            assert_eq!(retained(broker), "reading");
            let level = exposure(&sensor, "knock@broker.service");
            assert!(level <= EXPOSURE, "{level} is above {EXPOSURE}");
        },
    );
    report.check("after a reboot of the device, it knocks and publishes by itself", || {
        clear(broker);
        sensor.run(&["systemctl", "--quiet", "enable", "reading"]).success();
        sensor.reboot();
        wait("the reading is there", || retained(broker) == "reading");
    });
    keep(report, broker, &mut sensor);
    if report.failures() > 0 {
        sensor.show_logs();
    }
    report.check("purged, the client leaves nothing", || {
        sensor.run(&["rm", "-r", "/etc/knock/knock.toml"]).success();
        sensor.run(&["apt-get", "purge", "-q", "-y", CLIENT]).success();
        let left = sensor.sh(
            "find / -xdev \\( -path /srv/packages -o -path /proc -o -path /var/log -o -path /var/cache \\) -prune \
             -o -iname '*knock*' -print",
        );
        assert_eq!(left, "", "left behind");
    });
}

/// A session that lives on, by the recipe of knock-keep@.service.
fn keep(report: &mut Report, broker: &Machine, sensor: &mut Machine) {
    // Where an earlier grant lives still, as after a kill, the open port is no proof of the knock, and the status says so.
    let kept = |sensor: &Machine| {
        let status = sensor.show("knock-keep@broker", "StatusText");
        status.contains("and kept open") || status.contains("tcp/8883 accepts at")
    };
    report.check("enabled, knock-keep@broker keeps the door open, and the client listens", || {
        let login = broker::login("broker", "/etc/ssl/broker-ca.crt").join(" ");
        sensor.write("/etc/systemd/system/listener.service", &KEPT.replace("LOGIN", &login));
        // What the units before have opened.
        broker.run(&["knockd", "revoke", "sensor"]).success();
        wait("the door is shut", || grants(broker).is_empty());
        let enable = ["systemctl", "enable", "--now", "knock-keep@broker", "listener"];
        let enabled = sensor.run(&enable);
        assert!(enabled.is_success(), "{enabled}\n{}", keepers_journal(sensor));
        wait("the door is kept open", || {
            sensor.show("knock-keep@broker", "StatusText").contains("and kept open")
        });
        let open_for = || grants(broker).iter().filter_map(|it| it["remaining-s"].as_u64()).max();
        assert!(open_for() > Some(200), "{:?}", open_for());
        ordered(broker, sensor, "first");
        let level = exposure(sensor, "knock-keep@broker.service");
        assert!(level <= KEEPER_EXPOSURE, "{level} is above {KEEPER_EXPOSURE}");
    });
    report.check("the profile is read again, and the session lives on", || {
        let before = sensor.show("listener", "MainPID");
        sensor.run(&["systemctl", "reload", "knock-keep@broker"]).success();
        wait("the profile is read again", || {
            keepers_journal(sensor).contains("the profile was read again") && kept(sensor)
        });
        ordered(broker, sensor, "second");
        assert_eq!(sensor.show("listener", "MainPID"), before);
    });
    report.check(
        "knock killed, by kill -9 as by the OOM killer or by SIGTERM: both come back",
        || {
            for signal in ["-9", "-TERM"] {
                let before = sensor.show("knock-keep@broker", "MainPID");
                sensor.run(&["kill", signal, &before]).success();
                wait("another one keeps the door", || {
                    let now = sensor.show("knock-keep@broker", "MainPID");
                    // Between the two there is none, and the status is still the first one's.
                    now != before && now != "0" && kept(sensor)
                });
                ordered(broker, sensor, &format!("after kill {signal}"));
            }
        },
    );
    report.check("stopped, the door is closed and the client ends; started, both are back", || {
        sensor.run(&["systemctl", "stop", "knock-keep@broker"]).success();
        wait("the listener has ended", || sensor.show("listener", "ActiveState") == "inactive");
        assert_eq!(sensor.show("knock-keep@broker", "Result"), "success");
        wait("the door is closed", || grants(broker).is_empty());
        sensor.run(&["systemctl", "start", "knock-keep@broker"]).success();
        ordered(broker, sensor, "after a stop and a start");
    });
    report.check("an upgrade of the package leaves the session alone", || {
        let before = sensor.show("listener", "MainPID");
        install::install(sensor, CLIENT, Version::Newer);
        ordered(broker, sensor, "after an upgrade");
        assert_eq!(sensor.show("listener", "MainPID"), before);
        sensor.run(&["systemctl", "restart", "knock-keep@broker"]).success();
        ordered(broker, sensor, "with the newer program");
    });
    report.check("a device without the time waits for nothing", || {
        sensor.write("/etc/systemd/system/no-time.service", NO_TIME);
        sensor.run(&["systemctl", "daemon-reload"]).success();
        sensor.run(&["systemctl", "start", "--no-block", "no-time"]).success();
        let restart =
            ["timeout", "30", "systemctl", "restart", "knock-keep@broker", "knock@broker"];
        sensor.run(&restart).success();
        ordered(broker, sensor, "without the time");
        sensor.run(&["systemctl", "stop", "no-time"]).success();
    });
    report.check("a disk that turns read-only, and one family that is broken, keep nobody out", || {
        sensor.sh("nft 'add table inet broken; add chain inet broken out { type filter hook output priority 0; }; \
                   add rule inet broken out ip6 daddr fd77::/64 drop'");
        sensor.sh("mount -t tmpfs -o ro none /var/lib/knock");
        sensor.run(&["systemctl", "restart", "knock-keep@broker"]).success();
        wait("the door is kept open", || kept(sensor));
        assert!(grants(broker).iter().any(|grant| grant["address"] == "10.77.0.3"));
        sensor.sh("umount /var/lib/knock; nft delete table inet broken");
    });
    report.check(
        "rebooted while the broker is dark, its boot is over, and it gets in afterwards",
        || {
            // A grant would outlive the daemon.
            broker.sh("knockd revoke sensor; systemctl stop knockd.socket knockd.service");
            sensor.run(&["systemctl", "disable", "reading"]).success();
            let took = sensor.reboot();
            sensor.limit_namespaces("user", 0);
            saw(&format!("booted after {:.1} s, with the door shut", took.as_secs_f64()));
            assert_eq!(sensor.show("knock-keep@broker", "ActiveState"), "active");
            assert!(!kept(sensor), "the broker isn't dark");
            broker.run(&["systemctl", "start", "knockd.socket", "knockd.service"]).success();
            ordered(broker, sensor, "after a reboot");
        },
    );
    broker.run(&["systemctl", "start", "knockd.socket", "knockd.service"]).success();
    report.check("stopped for good, it closes its door", || {
        sensor.run(&["systemctl", "disable", "--now", "knock-keep@broker", "listener"]).success();
        wait("the door is closed", || grants(broker).is_empty());
    });
}

/// Waits until an order arrives at the listener.
#[track_caller]
fn ordered(broker: &Machine, sensor: &Machine, text: &str) {
    wait(&format!("the order {text:?} arrives"), || {
        let login = broker::login("broker", broker::CA).join(" ");
        broker.sh(&format!("mosquitto_pub {login} -q 1 -t order/1 -m '{text}'"));
        sensor.sh("journalctl -q -u listener -o cat").contains(text)
    });
}

/// What the sensor holds open.
fn grants(broker: &Machine) -> Vec<serde_json::Value> {
    let answer = broker.run(&["knockd", "grants", "--json"]).success().json();
    let all = answer["grants"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|grant| grant["client"] == "sensor").collect()
}

fn keepers_journal(sensor: &Machine) -> String {
    sensor.sh("journalctl -q -n 50 -u 'knock-keep@*' -u listener")
}

/// The retained reading, as the broker's own machine gets it.
fn retained(broker: &Machine) -> String {
    let login = broker::login("broker", broker::CA).join(" ");
    let subscribe = format!("mosquitto_sub {login} -t sensor/1 -C 1 -W 2 --retained-only || true");
    broker.sh(&subscribe).trim().to_owned()
}

/// Forgets it.
fn clear(broker: &Machine) {
    let login = broker::login("broker", broker::CA).join(" ");
    broker.sh(&format!("mosquitto_pub {login} -t sensor/1 -r -n"));
    assert_eq!(retained(broker), "");
}
