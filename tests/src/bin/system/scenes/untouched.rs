//! What an installation must leave as it is: everything, until knockd is enabled.

use std::collections::BTreeSet;

use crate::machine::Machine;

/// Units that the package has to do with, and some that it hasn't.
const UNITS: &[&str] = &[
    "nftables.service",
    "ufw.service",
    "firewalld.service",
    "netfilter-persistent.service",
    "mosquitto.service",
    "systemd-networkd.service",
    "network-pre.target",
    "sysinit.target",
    "sockets.target",
    "multi-user.target",
];
/// Of each: what it does, and what it waits for.
const PROPERTIES: &str = "FragmentPath,DropInPaths,UnitFileState,ActiveState,CanReload,Wants,Requires,BindsTo,WantedBy,\
                          Before,After,OnFailure";
const COMMANDS: [&str; 6] =
    ["ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"];
/// Where files come and go while packages are installed; the units' own folders are not among them.
const UNRELATED: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/mosquitto",
    "/var/lib/systemd",
    "/srv/packages",
];

/// Everything that counts on a host, a line for each fact: the ruleset, what units do, who listens, users and groups,
/// files with their modes, owners and contents.
#[track_caller]
pub(crate) fn facts(machine: &Machine) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        facts.extend(text.lines().map(|line| format!("{kind}: {line}")));
    };
    add("ruleset", &machine.sh("nft list ruleset"));
    add("listens", &machine.sh("ss -Hlntu | tr -s ' ' | cut -d' ' -f1,5"));
    add("user", &machine.sh("getent passwd"));
    add("group", &machine.sh("getent group"));
    add("sysctl", &machine.sh("sysctl -a 2>/dev/null | grep -E '^net\\.(core|netfilter|ipv[46]\\.conf)' | grep -v _count"));
    for unit in UNITS {
        let show = machine.sh(&format!("systemctl show {unit} -p {PROPERTIES}"));
        for line in show.lines() {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            // A set, which systemd lists in any order.
            value.split_whitespace().for_each(|word| add(unit, &format!("{key} {word}")));
        }
        for command in COMMANDS {
            let show = machine.sh(&format!("systemctl show {unit} -p {command} --value"));
            // Not when they ran last.
            let argv = show.lines().filter_map(|line| line.split(" ; ").nth(1));
            argv.for_each(|argv| add(unit, &format!("{command} {argv}")));
        }
    }
    let prune: Vec<_> = UNRELATED.iter().map(|path| format!("-path {path}")).collect();
    let prune = prune.join(" -o ");
    add(
        "file",
        &machine.sh(&format!("find / -xdev \\( {prune} \\) -prune -o -printf '%M %u %g %l %p\\n'")),
    );
    add("content", &machine.sh("find /etc -xdev -type f ! -name passwd ! -name group ! -name '*shadow' ! -name '*-' -exec md5sum {} +"));
    facts
}

/// Panics unless all that was so is so still, and what is new is the package's own: its files, its user and groups.
#[track_caller]
pub(crate) fn compare(before: &BTreeSet<String>, after: &BTreeSet<String>, packed: &str) {
    let gone: Vec<_> = before.difference(after).collect();
    assert!(gone.is_empty(), "this is otherwise than it was: {gone:#?}");
    let own: BTreeSet<&str> = packed.lines().collect();
    let is_own = |fact: &str| {
        let named =
            ["user: knockd:", "group: knockd:", "group: knockd-keys:", "group: knockd-readers:"];
        let path = fact.rsplit(' ').next().unwrap_or_default();
        let is_file = fact.starts_with("file: ") || fact.starts_with("content: ");
        let made = [
            "/etc/knockd/clients.d",
            "/var/lib/knockd",
            "/var/lib/knockd/fresh",
            "/var/lib/knockd-firewall",
        ];
        named.iter().any(|start| fact.starts_with(start))
            || is_file && (own.contains(path) || made.contains(&path))
    };
    let new: Vec<_> = after.difference(before).filter(|fact| !is_own(fact)).collect();
    assert!(new.is_empty(), "this was not so: {new:#?}");
}
