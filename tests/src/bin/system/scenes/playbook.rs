//! The roles of config/ansible, by a real ansible-core over SSH: a broker's host and a device from nothing, in one run.

use std::process::Command;

use e2e::Output;
use e2e::binaries::repository;

use crate::inside;
use crate::lan::{self, BROKER, PANEL};
use crate::machine::Machine;
use crate::packages::{CLIENT, DAEMON, Packages, Version};
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::broker;
use crate::wait::wait;

/// How long a run may take, in seconds: the first one waits until the new daemon takes packets.
const LIMIT: &str = "300";

/// A client whose key is made of the master key, which is no secret.
const MASTERS_CLIENT: &str =
    "[[client]]\nname = \"press-99\"\nkey-from = \"master\"\nservices = [\"mqtts\"]\n";
const MASTER_KEY: &str = "b25lIG1vcmUsIGZvciBhIHRlc3Q6IG5vdCBzZWNyZXQ=\n";
/// Every key of knockd.toml, as variables of the role: the paths and the port elsewhere as well.
const EVERY_KEY: &str = r#"{
  "knockd_listen": ["0.0.0.0:62202"],
  "knockd_control": "/run/knockd/other.sock",
  "knockd_state": "/var/lib/knockd-other",
  "knockd_master_key_file": "/etc/knockd/keys/master.key",
  "knockd_clock_skew": "20s",
  "knockd_services": [{"name": "mqtts", "ports": ["tcp/8883"]},
                      {"name": "behind", "ports": ["tcp/8884"], "to": ["192.0.2.7"]}],
  "knockd_allow_interfaces": ["wg0"],
  "knockd_allow_networks": ["192.0.2.0/24"],
  "knockd_grant": {"open-for": "60s", "max": "2h", "per-client": 32, "sessions": "keep"},
  "knockd_ban": {"failures": 6, "window": "20m", "duration": "5h", "scope": "knock", "never": ["192.0.2.1/32"],
                 "translated": ["2001:db8:64::/96"]},
  "knockd_replay": {"capacity": 65536, "per-client": 4096},
  "knockd_reply": {"enabled": true},
  "knockd_prefilter": {"mode": "auto", "junk-budget": 900},
  "knockd_metrics": {"listen": "127.0.0.1:9163", "per-client": 50}
}"#;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    let mut said = String::new();
    let mut run = |more: &[&str]| {
        let output = playbook(more).success();
        said += &output.stdout;
        said += &output.stderr;
        output
    };
    let panel =
        report.check("a playbook sets up the broker's host and a device in one run", || {
            let panel = Machine::boot("panel", PANEL);
            for machine in [broker, &panel] {
                admit(machine);
            }
            inventory();
            let output = run(&["-v", "--diff"]);
            saw(&recap(&output));
            assert!(!changed_nothing(&output), "{output}");
            broker::give_ca(broker, &panel);
            publish(&panel, "by a playbook");
            panel
        });
    let Some(panel) = panel else { return };
    report.check("run again, it changes nothing", || {
        let output = run(&["-v", "--diff"]);
        saw(&recap(&output));
        assert!(changed_nothing(&output), "{output}");
    });
    report.check("in check mode it says what would change, and changes nothing", || {
        let before = broker.sh("cat /etc/knockd/knockd.toml");
        let network = r#"{"knockd_allow_networks": ["192.0.2.0/24"]}"#;
        let output = run(&["-v", "--check", "--diff", "-e", network]);
        assert!(output.stdout.contains("+networks = [\"192.0.2.0/24\"]"), "{output}");
        assert_eq!(broker.sh("cat /etc/knockd/knockd.toml"), before);
    });
    let first = key(&panel);
    report.check("in check mode a device's new key is announced, and not made", || {
        let entry = "cat /etc/knockd/clients.d/panel.toml";
        let before = broker.sh(entry);
        let output = run(&["-v", "--check", "--diff", "-e", "knock_rotate=true"]);
        assert!(!changed_nothing(&output), "{output}");
        assert_eq!((broker.sh(entry), key(&panel)), (before, first.clone()));
        // A device that has no profile yet is enrolled by the next run: this one only says so.
        panel.sh("mv /etc/knock/knock.toml /root/");
        let output = run(&["-v", "--check", "--diff"]);
        panel.sh("mv /root/knock.toml /etc/knock/");
        assert!(!changed_nothing(&output), "{output}");
    });
    report.check("asked not to rotate, it doesn't", || {
        let output = run(&["-v", "--diff", "-e", "knock_rotate=false"]);
        assert!(changed_nothing(&output), "{output}");
        assert_eq!(key(&panel), first);
    });
    report.check("a new key is made and delivered, and the device gets in with it", || {
        run(&["-v", "--diff", "-e", "knock_rotate=true"]);
        assert_ne!(key(&panel), first);
        panel.run(&["systemctl", "restart", "knock-keep@broker"]).success();
        publish(&panel, "with a new key");
    });
    report.check("a device that is disabled is out at once", || {
        let disabled = r#"{"knockd_disabled_clients": ["panel"]}"#;
        saw(&recap(&run(&["-v", "--diff", "--limit", "gateways", "-e", disabled])));
        wait("no grant is left", || {
            let grants = broker.run(&["knockd", "grants", "--json"]).success().json();
            grants["grants"].as_array().is_some_and(Vec::is_empty)
        });
        let again = run(&["-v", "--diff", "--limit", "gateways", "-e", disabled]);
        assert!(changed_nothing(&again), "{again}");
    });
    report.check("a device that is enabled again is in again", || {
        let enabled = r#"{"knockd_enabled_clients": ["panel"]}"#;
        run(&["-v", "--diff", "--limit", "gateways", "-e", enabled]);
        panel.run(&["systemctl", "restart", "knock-keep@broker"]).success();
        publish(&panel, "in again");
        let again = run(&["-v", "--diff", "--limit", "gateways", "-e", enabled]);
        assert!(changed_nothing(&again), "{again}");
    });
    let second = key(&panel);
    report.check(
        "a device that was removed is enrolled anew, without a clock and with an end",
        || {
            let removed = r#"{"knockd_removed_clients": ["panel"]}"#;
            run(&["-v", "--diff", "--limit", "gateways", "-e", removed]);
            panel.sh("systemctl stop knock-keep@broker; rm /etc/knock/knock.toml");
            let entry = r#"{"knock_clock": "counter", "knock_expires": "2099-12-31"}"#;
            run(&["-v", "--diff", "-e", entry]);
            publish(&panel, "by its counter");
            let client =
                broker.run(&["knockd", "client", "show", "panel", "--json"]).success().json();
            let said = client.to_string();
            assert!(said.contains("\"counter\"") && said.contains("2099-12-31"), "{said}");
            let again = run(&["-v", "--diff", "-e", entry]);
            assert!(changed_nothing(&again), "{again}");
        },
    );
    report.check("what is wrong with a device's name is told, and no key is", || {
        panel.sh("mv /etc/knock/knock.toml /root/");
        let output = playbook(&["--diff", "-e", "knock_client=Panel-7"]);
        panel.sh("mv /root/knock.toml /etc/knock/");
        said += &output.stdout;
        let told = output.stdout.lines().find(|line| line.contains("Panel-7"));
        saw(told.unwrap_or_default().trim());
        assert!(!output.is_success() && told.is_some(), "{output}");
    });
    report.check(
        "every key of knockd.toml is a variable, also with clients of a master key",
        || {
            let before = broker.sh("cat /etc/knockd/knockd.toml");
            broker.write("/etc/knockd/clients.d/master.toml", MASTERS_CLIENT);
            broker.write_as("/etc/knockd/keys/master.key", MASTER_KEY, 0o600);
            broker.sh(
                "chgrp knockd-keys /etc/knockd/clients.d/master.toml /etc/knockd/keys/master.key
                   chmod 640 /etc/knockd/clients.d/master.toml /etc/knockd/keys/master.key",
            );
            let limit = ["--limit", "gateways", "--diff", "-e", EVERY_KEY];
            saw(&recap(&playbook(&limit).success()));
            broker.run(&["knockd", "check"]).success();
            let text = broker.sh("cat /etc/knockd/knockd.toml");
            let commented =
                std::fs::read_to_string(repository().join("config/knockd.toml")).unwrap();
            for line in commented.lines() {
                let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
                // What is no key is a sentence.
                if let Some(key) = key.filter(|key| !key.contains(' ') && *key != "realm") {
                    let is_set = text.lines().any(|line| line.starts_with(&format!("{key} = ")));
                    assert!(is_set, "{key} isn't set: {text}");
                }
            }
            assert_eq!(broker.show("knockd.service", "ActiveState"), "active");
            let again = playbook(&limit).success();
            assert!(changed_nothing(&again), "{again}");
            broker.sh("rm -r /etc/knockd/clients.d/master.toml /etc/knockd/keys");
            playbook(&["--limit", "gateways", "--diff"]).success();
            assert_eq!(broker.sh("cat /etc/knockd/knockd.toml"), before);
        },
    );
    report.check("no run has shown a key", || {
        for key in [first.clone(), second.clone(), key(&panel)] {
            assert!(!key.is_empty() && !said.contains(&key), "a key was shown");
        }
    });
    if report.failures() > 0 {
        panel.show_logs();
    }
}

/// Lets the controller in by SSH, as a fresh machine does.
fn admit(machine: &Machine) {
    let key = inside::folder().join("ssh.key");
    if !key.exists() {
        let path = key.to_str().unwrap();
        inside::run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]);
    }
    let public = std::fs::read_to_string(key.with_extension("key.pub")).expect("the public key");
    machine.write_as("/root/.ssh/authorized_keys", &public, 0o600);
    machine.run(&["systemctl", "start", "ssh"]).success();
}

fn inventory() {
    let file = |name| Packages::file(&Packages::folder(), name, Version::Current);
    let inventory = format!(
        "gateways:\n  hosts:\n    broker: {{ ansible_host: {} }}\n  vars: {{ knockd_deb: {} }}\n\
         devices:\n  hosts:\n    panel: {{ ansible_host: {} }}\n  vars: {{ knock_deb: {}, knock_gateway: broker }}\n\
         all:\n  vars:\n    ansible_user: root\n    ansible_python_interpreter: /usr/bin/python3\n    \
         ansible_ssh_private_key_file: {}\n    \
         ansible_ssh_common_args: -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR\n",
        lan::v4(BROKER),
        file(DAEMON),
        lan::v4(PANEL),
        file(CLIENT),
        inside::folder().join("ssh.key").display(),
    );
    std::fs::write(inside::folder().join("inventory.yml"), inventory).expect("write a file");
}

/// Runs the playbook as README.md in its folder says.
fn playbook(more: &[&str]) -> Output {
    let inventory = inside::folder().join("inventory.yml");
    let program = inside::cache().join("ansible/bin/ansible-playbook");
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program).arg("-i").arg(&inventory).arg("site.yml").args(more);
    command.current_dir(repository().join("config/ansible"));
    command.envs([
        ("ANSIBLE_NOCOLOR", "1"),
        ("LC_ALL", "C.UTF-8"),
        ("ANSIBLE_HOME", "/run/ansible"),
    ]);
    let shown =
        format!("controller$ ansible-playbook -i inventory.yml site.yml {}", more.join(" "));
    lan::within(|| Output::of(command, "", &shown))
}

/// The last lines: what each host came to.
fn recap(output: &Output) -> String {
    let (_, recap) = output.stdout.rsplit_once("PLAY RECAP").unwrap_or_default();
    recap.lines().skip(1).collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn changed_nothing(output: &Output) -> bool {
    let recap = recap(output);
    !recap.is_empty() && recap.lines().all(|host| host.contains("changed=0"))
}

/// The device's key.
fn key(panel: &Machine) -> String {
    panel.sh("sed -n 's/^key = \"\\(.*\\)\"$/\\1/p' /etc/knock/knock.toml").trim().to_owned()
}

fn publish(panel: &Machine, message: &str) {
    let login = broker::login("broker", "/etc/ssl/broker-ca.crt").join(" ");
    panel.sh(&format!("timeout 10 mosquitto_pub {login} -q 1 -t panel/1 -m '{message}'"));
}
