//! Whether conntrack follows connections as long as is promised, and has room for them.

use std::{fs, io::ErrorKind};

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::{
        model::{Effect, Table, Tool, Truth},
        packet::IpFamily,
        walk::{self, Affected},
    },
    ways,
};
use crate::gate::policy::{Protocol, Sessions};

/// What a device may count on: how long a silent connection is followed, by RFC 5382, REQ-5, and RFC 4787, REQ-5.
const TIMEOUTS: [(Protocol, &str, u64, &str); 2] = [
    (Protocol::Tcp, "nf_conntrack_tcp_timeout_established", 7440, "RFC 5382 asks for 2 h 4 min"),
    (Protocol::Udp, "nf_conntrack_udp_timeout_stream", 120, "RFC 4787 asks for 2 min"),
];
/// How full its table may be, in percent, before that is told.
const FULL: u64 = 90;

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let config = examined.config()?;
    room(findings)?;
    if config.policy.grant.sessions == Sessions::Cut {
        return Ok(());
    }
    for (protocol, name, least, source) in TIMEOUTS {
        let guarded = config.policy.services.iter().flat_map(|service| &service.ports);
        if !guarded.into_iter().any(|port| port.protocol == protocol) {
            continue;
        }
        let Some(seconds) = setting(name)? else { continue };
        if seconds < least {
            findings.add(
                Finding::warning("conntrack-forgets", format!("conntrack forgets a {protocol} connection that is silent for {seconds} s: with sessions = \"keep\" it ends then, unless its device knocks again or its client sends something more often (MQTT: keep alive) ({source})"))
                    .at(format!("net.netfilter.{name}"))
                    .mend(format!("sysctl -w net.netfilter.{name}={least}")),
            );
        }
    }
    untracked(examined, findings)
}

/// Whether its table has room: where it has none, a new connection is dropped behind an open door.
fn room(findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (Some(count), Some(most)) = (setting("nf_conntrack_count")?, setting("nf_conntrack_max")?)
    else {
        return Ok(());
    };
    if most > 0 && count.saturating_mul(100) >= most.saturating_mul(FULL) {
        findings.add(
            Finding::warning("conntrack-full", format!("conntrack follows {count} connections and has room for {most}: what doesn't fit is dropped, with a door open or not"))
                .at("net.netfilter.nf_conntrack_max")
                .mend(format!("sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(2))),
        );
    }
    Ok(())
}

/// A setting of conntrack's in this network namespace; `None` where there is no conntrack yet.
fn setting(name: &str) -> Result<Option<u64>, Unable> {
    match fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checks that no other rule keeps conntrack from following what is to live on.
fn untracked(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host, rules) = (examined.config()?, examined.host()?, examined.rules()?);
    let wanted: Vec<_> = ways::wanted(config).into_iter().filter(|it| it.state == "new").collect();
    for wanted in &wanted {
        for interface in host.outside() {
            for family in [IpFamily::V4, IpFamily::V6] {
                if wanted.to.is_some_and(|to| IpFamily::of(to) != family)
                    || (wanted.to.is_none() && !interface.has(family))
                {
                    continue;
                }
                let packet = ways::packet(wanted.port, "new", interface, family, wanted.to, host);
                for Affected { effect, table, chain, rule, reach } in
                    walk::effects(&rules.tables, &packet)
                {
                    if effect != Effect::Untrack {
                        continue;
                    }
                    let verb = if reach == Truth::Yes { "takes" } else { "may take" };
                    findings.add(
                        Finding::warning("port-untracked", format!("another rule {verb} {} ({}) out of conntrack: with sessions = \"keep\" its connections end with their grant all the same", wanted.port, wanted.what))
                            .at(format!("table {} {}, chain {}", table.family, table.name, chain.name))
                            .mend(delete(table, &chain.name, rule.handle, rule.text.as_deref())),
                    );
                }
            }
        }
    }
    Ok(())
}

/// The command that takes a rule out.
pub(super) fn delete(
    table: &Table,
    chain: &str,
    handle: Option<u64>,
    text: Option<&str>,
) -> String {
    match (table.tool, handle, text) {
        (Tool::Nft, Some(handle), _) => {
            format!("nft delete rule {} {} {chain} handle {handle}", table.family, table.name)
        }
        (tool, _, Some(text)) => {
            let program = match (tool, table.family.as_str()) {
                (Tool::IptablesLegacy, "ip6") => "ip6tables-legacy",
                (Tool::IptablesLegacy, _) => "iptables-legacy",
                (_, "ip6") => "ip6tables",
                _ => "iptables",
            };
            format!("{program} -t {} {}", table.name, text.replacen("-A ", "-D ", 1))
        }
        _ => format!("take that rule out of chain {chain}"),
    }
}
