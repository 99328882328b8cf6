//! The generator of drop-ins for other units that load rulesets: it adds, once the door is enabled, and replaces nothing
//! but Debian's own commands.
#![allow(clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use e2e::{Output, binaries};

/// nftables.service as Debian has it.
const DEBIANS: &str = "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/nftables.conf
ExecReload=/usr/sbin/nft -f /etc/nftables.conf
ExecStop=/usr/sbin/nft flush ruleset
";

/// A host's folders of units: the admin's, and the vendor's.
struct Units {
    folder: tempfile::TempDir,
}

impl Units {
    /// With nftables.service, ufw.service and this program's unit, enabled or not.
    fn new(is_enabled: bool) -> Self {
        let units = Self { folder: tempfile::tempdir().expect("make a folder") };
        units.write("lib/nftables.service", DEBIANS);
        units.write("lib/ufw.service", "[Service]\nExecStart=/usr/lib/ufw/ufw-init start\n");
        let own = binaries::repository().join("systemd/knockd-firewall.service");
        units.write("lib/knockd-firewall.service", &fs::read_to_string(own).expect("read"));
        if is_enabled {
            let wants = units.path("etc/sysinit.target.wants");
            fs::create_dir_all(&wants).expect("make a folder");
            symlink("/nowhere", wants.join("knockd-firewall.service")).expect("make a link");
        }
        units
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(path, text).expect("write");
    }

    /// Runs the generator, and takes the drop-in that it made for a unit.
    fn drop_in(&self, unit: &str) -> Option<String> {
        let out = self.path("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out).expect("make a folder");
        let script = binaries::repository().join("systemd/knockd-generator");
        let mut command = Command::new("sh");
        command.args([&script, &out, &out, &out]);
        let path = format!("{}:{}", self.path("etc").display(), self.path("lib").display());
        command.env("SYSTEMD_UNIT_PATH", path);
        let output = Output::of(command, "", "knockd-generator").success();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
        fs::read_to_string(out.join(format!("{unit}.d/zz-knockd.conf"))).ok()
    }
}

/// Whether a drop-in forgets the commands that a unit has for a key.
fn replaces(drop_in: &str, key: &str) -> bool {
    drop_in.lines().any(|line| line == format!("{key}="))
}

#[test]
fn before_the_door_is_enabled_and_while_it_is_masked_no_unit_is_touched() {
    assert_eq!(Units::new(false).drop_in("nftables.service"), None);
    let masked = Units::new(true);
    symlink("/dev/null", masked.path("etc/knockd-firewall.service")).expect("make a link");
    assert_eq!(masked.drop_in("nftables.service"), None);
}

#[test]
fn debians_own_commands_are_put_into_one_transaction_with_the_table() {
    let drop_in = Units::new(true).drop_in("nftables.service").expect("a drop-in");
    for (key, command, with) in [
        ("ExecStart", "/usr/sbin/nft -f /etc/nftables.conf", "--with=/etc/nftables.conf"),
        ("ExecReload", "/usr/sbin/nft -f /etc/nftables.conf", "--with=/etc/nftables.conf"),
        ("ExecStop", "/usr/sbin/nft flush ruleset", "--with=/usr/share/knockd-spa/flush.nft"),
    ] {
        assert!(replaces(&drop_in, key), "{drop_in}");
        let wrapped = drop_in.lines().any(|line| {
            line.starts_with(&format!("{key}=/bin/sh"))
                && line.contains(with)
                && line.ends_with(&format!("|| exec {command}'"))
        });
        assert!(wrapped, "{key}: {drop_in}");
    }
}

#[test]
fn a_command_of_an_admins_own_is_never_replaced() {
    let site = "/usr/sbin/nft -f /etc/firewall/site.nft";
    let drop_in = format!("[Service]\nExecStart=\nExecStart={site}\n");
    let more = "[Service]\nExecStart=/usr/local/sbin/more-rules\n".to_owned();
    let continued =
        "[Service]\nExecStart=\nExecStart=/usr/sbin/nft \\\n  -f /etc/site.nft\n".to_owned();
    for (name, text) in [
        ("etc/nftables.service.d/10-site.conf", &drop_in),
        ("etc/nftables.service.d/zzz.conf", &drop_in),
        ("lib/service.d/all.conf", &drop_in),
        ("etc/nftables.service.d/more.conf", &more),
        ("etc/nftables.service.d/continued.conf", &continued),
        ("etc/nftables.service", &format!("[Service]\nType=oneshot\nExecStart = {site}\n")),
    ] {
        let units = Units::new(true);
        units.write(name, text);
        let made = units.drop_in("nftables.service").expect("a drop-in");
        assert!(!replaces(&made, "ExecStart"), "{name}: {made}");
        assert!(made.contains("ExecStartPost=-+"), "{name}: the table isn't put in again: {made}");
    }
    // A unit of the admin's own that can't be reloaded stays one.
    let units = Units::new(true);
    units.write("etc/nftables.service", &format!("[Service]\nType=oneshot\nExecStart={site}\n"));
    let made = units.drop_in("nftables.service").expect("a drop-in");
    assert!(!made.contains("ExecReload") && !made.contains("ExecStop="), "{made}");
}

#[test]
fn a_drop_in_that_is_masked_doesnt_count_and_a_unit_that_is_masked_or_missing_gets_none() {
    let units = Units::new(true);
    units.write("lib/nftables.service.d/site.conf", "[Service]\nExecStart=\nExecStart=/x\n");
    fs::create_dir_all(units.path("etc/nftables.service.d")).expect("make a folder");
    symlink("/dev/null", units.path("etc/nftables.service.d/site.conf")).expect("make a link");
    let made = units.drop_in("nftables.service").expect("a drop-in");
    assert!(replaces(&made, "ExecStart"), "{made}");
    assert!(units.drop_in("ufw.service").is_some_and(|made| !made.contains("ExecReload")));
    assert_eq!(units.drop_in("firewalld.service"), None);
    symlink("/dev/null", units.path("etc/ufw.service")).expect("make a link");
    assert_eq!(units.drop_in("ufw.service"), None);
}

#[test]
fn what_it_has_made_before_is_not_read_as_an_admins_own() {
    let units = Units::new(true);
    let first = units.drop_in("nftables.service").expect("a drop-in");
    units.write("etc/nftables.service.d/zz-knockd.conf", &first);
    assert_eq!(units.drop_in("nftables.service"), Some(first));
}
