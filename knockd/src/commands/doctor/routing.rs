//! Whether answers go back the way that packets came.

use std::fs;

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};

/// Checks that answers go back the way that packets came.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let host = examined.host()?;
    let ways_out: Vec<_> =
        host.interfaces.iter().filter(|interface| interface.is_way_out).collect();
    if ways_out.len() < 2 {
        return Ok(());
    }
    let setting = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let text = fs::read_to_string(path)?;
        Ok::<u8, Unable>(text.trim().parse().unwrap_or(0))
    };
    let all = setting("all")?;
    for interface in ways_out {
        // The larger of both counts, and 1 is strict (ip-sysctl.rst).
        if all.max(setting(&interface.name)?) == 1 {
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
