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
