//! Whether answers go back the way that packets came.

use std::fs;

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};
use crate::gate::policy::Protocol;

/// How strictly the way back to an IPv4 sender is looked at (ip-sysctl.rst).
fn rp_filter(name: &str) -> Result<u8, Unable> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    Ok(fs::read_to_string(path)?.trim().parse().unwrap_or(0))
}

/// Networks that need no knock, where anybody may send in their name: what a UDP service does is done for him.
fn forgeable(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host) = (examined.config()?, examined.host()?);
    let ports = config.policy.services.iter().flat_map(|service| &service.ports);
    let Some(udp) = ports.into_iter().find(|port| port.protocol == Protocol::Udp) else {
        return Ok(());
    };
    let networks: Vec<String> = config
        .allow
        .networks
        .iter()
        .filter(|network| network.addr().is_ipv4())
        .map(ToString::to_string)
        .collect();
    for interface in host.outside().into_iter().filter(|_| !networks.is_empty()) {
        if rp_filter("all")?.max(rp_filter(&interface.name)?) == 0 {
            findings.add(
                Finding::warning("allowed-forgeable", format!("{} need no knock, and {} takes packets in their name from anywhere (no reverse path filter): anybody can send to {udp} by forging one (rp_filter = 1 is stricter, where answers leave by the same interface)", networks.join(", "), interface.name))
                    .at(format!("net.ipv4.conf.{}.rp_filter", interface.name))
                    .mend(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.name)),
            );
        }
    }
    Ok(())
}

/// Checks that answers go back the way that packets came.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let host = examined.host()?;
    forgeable(examined, findings)?;
    let ways_out: Vec<_> =
        host.interfaces.iter().filter(|interface| interface.is_way_out).collect();
    if ways_out.len() < 2 {
        return Ok(());
    }
    let all = rp_filter("all")?;
    for interface in ways_out {
        // The larger of both counts, and 1 is strict (ip-sysctl.rst).
        if all.max(rp_filter(&interface.name)?) == 1 {
            findings.add(
                Finding::warning(
                    "strict-reverse-path",
                    format!(
                        "there are default routes by several interfaces, and rp_filter is strict on {0}: packets that come in by {0} and would be answered by another are dropped before any rule",
                        interface.name
                    ),
                )
                .at(format!("net.ipv4.conf.{}.rp_filter", interface.name))
                .mend(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.name)),
            );
        }
    }
    Ok(())
}
