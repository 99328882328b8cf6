//! A device: a machine with the client's package, whose MQTT client's unit requires a knock.

use crate::lan::SENSOR;
use crate::machine::Machine;
use crate::packages::{CLIENT, Version};
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::{broker, install};
use crate::wait::wait;

/// The unit of an MQTT client, as a user would write it.
const UNIT: &str = "[Unit]
Description=publishes a reading
Requires=knock@broker.service
After=knock@broker.service

[Service]
Type=oneshot
ExecStart=/usr/bin/mosquitto_pub LOGIN -q 1 -t sensor/1 -m reading --retain
";

/// The unit of one whose session lives for days.
const KEPT: &str = "[Unit]
Description=listens
BindsTo=knock-keep@broker.service
After=knock-keep@broker.service

[Service]
ExecStart=/usr/bin/mosquitto_sub LOGIN -k 60 -q 1 -t order/#
Restart=always
";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    let booted = report.check("a device boots, and apt installs the client", || {
        let sensor = Machine::boot("sensor", SENSOR);
        install::install(&sensor, CLIENT, Version::Current);
        saw(&sensor.sh(&format!(
            "dpkg-query -W -f '${{Installed-Size}} KiB; depends: ${{Depends}}' {CLIENT}"
        )));
        sensor
    });
    let Some(mut sensor) = booted else { return };
    report.check("its MQTT client's unit requires knock@broker.service, and publishes", || {
        let add = ["knockd", "client", "add", "sensor", "--service", "mqtts", "--server", "broker"];
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
    });
    report.check("after a reboot of the device, it knocks and publishes by itself", || {
        clear(broker);
        sensor.run(&["systemctl", "--quiet", "enable", "reading"]).success();
        sensor.reboot();
        wait("the reading is there", || retained(broker) == "reading");
    });
    report.check(
        "a unit bound to knock-keep@broker listens while its door is kept open, and ends with it",
        || {
            let login = broker::login("broker", "/etc/ssl/broker-ca.crt").join(" ");
            sensor.write("/etc/systemd/system/listener.service", &KEPT.replace("LOGIN", &login));
            sensor.run(&["systemctl", "daemon-reload"]).success();
            let started = sensor.run(&["systemctl", "start", "listener"]);
            assert!(started.is_success(), "{started}\n{}", keepers_journal(&sensor));
            let status = || sensor.show("knock-keep@broker", "StatusText");
            assert!(status().contains("and kept open"), "{}", status());
            let open_for =
                || grants(broker).iter().filter_map(|it| it["remaining-s"].as_u64()).max();
            assert!(open_for() > Some(200), "{:?}", open_for());
            let order = |text: &str| {
                let login = broker::login("broker", broker::CA).join(" ");
                broker.sh(&format!("mosquitto_pub {login} -q 1 -t order/1 -m {text}"));
                sensor.sh("journalctl -q -u listener -o cat").contains(text)
            };
            wait("an order arrives", || order("first"));

            sensor.run(&["systemctl", "reload", "knock-keep@broker"]).success();
            wait("it has the door open with the profile read again", || {
                keepers_journal(&sensor).contains("the profile was read again")
                    && status().contains("and kept open")
            });
            assert!(order("second"), "the session lives on");

            sensor.run(&["systemctl", "stop", "knock-keep@broker"]).success();
            wait("the listener has ended", || sensor.show("listener", "ActiveState") == "inactive");
            assert_eq!(sensor.show("knock-keep@broker", "Result"), "success");
            wait("the door is closed", || grants(broker).is_empty());
            saw(sensor
                .sh("systemd-analyze security --no-pager knock-keep@broker | tail -n 1")
                .trim());
        },
    );
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
