//! Clients and configuration are changed on the running host.

use crate::knocks::grants;
use crate::lan::{self, DEVICES, Found, broker_is};
use crate::machine::Machine;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock, write_clients};
use crate::wait::{wait, wait_some};

/// Where the entry of one more client goes.
const ONE_MORE: &str = "/etc/knockd/clients.d/one-more.toml";
/// Its key, which is no secret.
const KEY: &str = "b25lIG1vcmUsIGZvciBhIHRlc3Q6IG5vdCBzZWNyZXQ=";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    knock(&["--wait", "--open-for=300s"]);
    let daemon = broker.daemon();
    report.check("`systemctl reload` applies a new client, and no live grant ends", || {
        write_clients(broker, ONE_MORE, &entry(KEY));
        broker.run(&["systemctl", "reload", "knockd"]).success();
        wait("the new client's knock opens the door", || {
            with_key(&["--close"]);
            with_key(&["--wait=1s"]).is_success()
        });
        broker_is(Found::Open);
        assert_eq!(broker.daemon(), daemon, "the same process");
        assert!(grants(broker).contains_key(&lan::v4(DEVICES)));
    });
    report.check(
        "a bad file is refused whole: nothing changes, and status says which line",
        || {
            write_clients(broker, ONE_MORE, &entry(KEY).replace("services", "sevrices"));
            let reload = broker.run(&["systemctl", "reload", "knockd"]);
            saw(&format!("systemctl reload exits with {}", reload.code.unwrap_or(-1)));
            let status = wait_some("status tells the mistake", || {
                let status = broker.run(&["knockd", "status"]).success().stdout;
                status.contains("one-more.toml:4").then_some(status)
            });
            status.lines().filter(|line| line.contains("one-more")).for_each(saw);
            assert!(!reload.is_success(), "`systemctl reload` is to fail: {reload}");
            assert!(with_key(&["--wait=2s"]).is_success(), "the old configuration stays");
            assert_eq!(broker.daemon(), daemon, "the same process");
        },
    );
    report.check("replies, switched on, come by the socket that systemd holds", || {
        broker.run(&["rm", ONE_MORE]).success();
        let edit = |script: &str| {
            broker.run(&["sed", "-i", script, "/etc/knockd/knockd.toml"]).success();
            broker.run(&["systemctl", "reload", "knockd"]).success();
        };
        edit("s/^\\[reply\\]$/&\\nenabled = true/");
        let replied = knock(&["--reply=5s"]).success();
        saw(&replied.stdout);
        edit("/^\\[reply\\]$/,+1{/^enabled/d}");
        let silent = knock(&["--reply=1s"]);
        assert_eq!(silent.code, Some(75), "switched off: {silent}");
    });
    report.check("mended, it is taken; removed, its client is refused", || {
        write_clients(broker, ONE_MORE, &entry(KEY));
        broker.run(&["systemctl", "reload", "knockd"]).success();
        broker.run(&["rm", ONE_MORE]).success();
        broker.run(&["systemctl", "reload", "knockd"]).success();
        close();
        assert!(!with_key(&["--wait=1s"]).is_success());
        broker_is(Found::Silence);
    });
}

/// The entry of one more client.
fn entry(key: &str) -> String {
    format!("[[client]]\nname = \"one-more\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n")
}

/// Knocks with that key.
fn with_key(options: &[&str]) -> e2e::Output {
    let file = super::install::file("one-more.key");
    e2e::door::write_private(&file, KEY);
    let profile = super::install::file("one-more.toml");
    e2e::door::write_private(
        &profile,
        &format!(
            "[broker]\nserver = \"broker\"\nkey-file = \"{}\"\nservice = \"mqtts\"\nport = \"tcp/8883\"\n",
            file.display()
        ),
    );
    let knock = super::install::file("client/usr/bin/knock");
    let argv = [knock.to_str().unwrap(), "--config", profile.to_str().unwrap()];
    lan::device(&[&argv[..], options].concat())
}

/// Used by other scenes: whether the table is the configured one.
#[track_caller]
pub(crate) fn is_whole(machine: &Machine) {
    machine.run(&["knockd", "firewall", "status"]).success();
}
