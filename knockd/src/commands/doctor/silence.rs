//! Whether a shut door stands out among this host's other ports.

use std::num::NonZeroU16;

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::{
        model::Truth,
        packet::IpFamily,
        walk::{self, Hit},
    },
    ways,
};
use crate::gate::policy::{Port, Protocol};

/// A port that hardly anybody uses (IANA has nothing at it): it stands for all that are closed.
const CLOSED: NonZeroU16 = NonZeroU16::new(48_557).unwrap();

/// Checks that closed ports are as silent as shut ones.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (host, rules) = (examined.host()?, examined.rules()?);
    let mut answering = Vec::new();
    for interface in host.outside() {
        for family in [IpFamily::V4, IpFamily::V6] {
            if !interface.has(family) {
                continue;
            }
            for (protocol, answer) in [(Protocol::Tcp, "RST"), (Protocol::Udp, "unreachable")] {
                let port = Port { protocol, number: CLOSED };
                let packet = ways::packet(port, "new", interface, family, None, host);
                if answers(&walk::drops(&rules.tables, &packet))
                    && !answering.contains(&(protocol, answer))
                {
                    answering.push((protocol, answer));
                }
            }
        }
    }
    if answering.is_empty() {
        return Ok(());
    }
    let answers: Vec<_> = answering
        .iter()
        .map(|(protocol, answer)| format!("{protocol} with \"{answer}\""))
        .collect();
    let has = |name: &str| {
        rules.tables.iter().any(|table| {
            table.name == name || table.chains.iter().any(|chain| chain.name.starts_with(name))
        })
    };
    let mend = if has("firewalld") {
        "firewall-cmd --permanent --zone=public --set-target=DROP && firewall-cmd --reload, with the services that you need allowed first"
    } else if has("ufw-") {
        "ufw default deny incoming, with what you need allowed first (ufw allow …)"
    } else {
        "have your own input chain drop what it doesn't accept: accept what you need first, SSH among it, then `nft chain inet filter input '{ policy drop; }'`"
    };
    findings.add(
        Finding::note("closed-ports-answer", format!("closed ports of this host answer ({}), and a shut door doesn't: a scan sees \"filtered\" among \"closed\", and that something is guarded", answers.join(", ")))
            .mend(mend),
    );
    Ok(())
}

/// Whether a sender hears of it that nobody is there.
fn answers(hits: &[Hit<'_>]) -> bool {
    let surely = hits.iter().find(|hit| hit.reach == Truth::Yes);
    surely.is_none_or(|hit| hit.answers)
}
