//! Whether kernel and nft can do what the table needs.

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    table::unable,
};
use crate::firewall::{FirewallError, nft, ruleset::TABLE};

/// A table of another name: the check must not depend on what is in ours now.
const TRIAL: &str = "inet knockd_doctor";

/// What the table needs beyond tables, chains and rules, each with the least script that needs it, and what
/// provides it.
const NEEDS: [(&str, &str, &str); 6] = [
    ("tables", "", "CONFIG_NF_TABLES_INET"),
    (
        "sets with timeouts",
        "set s { type ipv4_addr . inet_proto . inet_service; flags timeout; timeout 1s; }",
        "CONFIG_NF_TABLES",
    ),
    (
        "connection labels",
        "chain c { type filter hook prerouting priority -155; ct label 119 accept; }",
        "CONFIG_NF_CONNTRACK_LABELS and CONFIG_NFT_CT",
    ),
    (
        "fib expressions",
        "chain c { type filter hook prerouting priority -155; fib daddr type local accept; }",
        "CONFIG_NFT_FIB_INET",
    ),
    (
        "socket expressions",
        "chain c { type filter hook input priority -10; socket wildcard 0 accept; }",
        "CONFIG_NFT_SOCKET",
    ),
    (
        "limits",
        "chain c { type filter hook prerouting priority -300; limit rate over 1/second drop; }",
        "CONFIG_NFT_LIMIT",
    ),
];

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let version = match nft::version() {
        Ok(version) => version,
        Err(error) => {
            findings
                .add(Finding::fault("nft-missing", error.to_string()).mend("apt install nftables"));
            return Ok(());
        }
    };
    let script = examined.ruleset()?.script().replace(TABLE, TRIAL);
    let refused = match nft::check(&script) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let lacks: Vec<_> = NEEDS
        .iter()
        .filter(|(_, body, _)| nft::check(&format!("table {TRIAL} {{ {body} }}\n")).is_err())
        .collect();
    let denied = unable(&refused);
    if denied.needs_root {
        return Err(denied);
    }
    for (what, _, provider) in &lacks {
        findings.add(
            Finding::fault("kernel-lacks", format!("this kernel, or {version}, has no {what}, which the table needs"))
                .mend(format!("use a kernel with {provider} (its modules may be missing: apt install linux-modules-extra-$(uname -r) on Ubuntu), and nft 1.0.2 or newer")),
        );
    }
    if lacks.is_empty() {
        let FirewallError::Nft(said) = &refused else { return Err(denied) };
        findings.add(
            Finding::fault("table-refused", format!("{version} and this kernel refuse the table: {said}"))
                .mend("knockd firewall print | nft --check -f - shows where; report it as a fault of knockd"),
        );
    }
    Ok(())
}
