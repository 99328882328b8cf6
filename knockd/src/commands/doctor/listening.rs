//! Who listens: on the knock port, and behind the door.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::{model::Truth, packet::IpFamily},
    sockets::{self, Listening},
    ways,
};
use crate::gate::policy::{Port, Protocol};

/// Who holds the knock port by right: the daemon, and systemd for it.
const RIGHTFUL: [&str; 2] = ["knockd", "systemd"];

/// Checks that knocks arrive at the daemon.
pub(super) fn knock_port(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let listen = &examined.config()?.listen;
    let port = Port { protocol: Protocol::Udp, number: listen.port() };
    if listen.addresses().iter().all(|address| address.ip().to_canonical().is_loopback()) {
        findings.add(
            Finding::fault(
                "listen-loopback",
                "`listen` has loopback addresses only: no knock from outside arrives",
            )
            .at("listen in knockd.toml")
            .mend(format!("write listen = [\"[::]:{}\"], and restart knockd", listen.port())),
        );
    }
    let ipv6_is_off = fs::metadata("/proc/net/if_inet6").is_err();
    if ipv6_is_off && listen.addresses().iter().any(SocketAddr::is_ipv6) {
        findings.add(
            Finding::fault(
                "ipv6-off",
                "`listen` has an IPv6 address, and IPv6 is off on this host",
            )
            .at("listen in knockd.toml")
            .mend(format!("write listen = [\"0.0.0.0:{}\"], and restart knockd", listen.port())),
        );
    }
    let host = examined.host()?;
    for address in listen.addresses().iter().map(|address| address.ip().to_canonical()) {
        if !address.is_unspecified() && !address.is_loopback() && !host.has(address) {
            findings.add(
                Finding::fault(
                    "listen-elsewhere",
                    format!("`listen` has {address}, which no interface of this host has"),
                )
                .at("listen in knockd.toml")
                .mend(format!(
                    "write listen = [\"[::]:{}\"], and: systemctl restart knockd",
                    listen.port()
                )),
            );
        }
    }
    let found = sockets::listening(port)?;
    if found.is_empty() {
        findings.add(
            Finding::fault(
                "knock-port-unheard",
                format!("nobody listens at {port}: knocks are lost"),
            )
            .mend("systemctl start knockd"),
        );
        return Ok(());
    }
    if found.iter().all(Listening::is_local) {
        findings.add(
            Finding::fault("knock-port-loopback", format!("{port} is listened at on loopback addresses only: no knock from outside arrives"))
                .mend(format!("write listen = [\"[::]:{}\"], and restart knockd", listen.port())),
        );
    }
    let pid = examined.status().ok().flatten().map(|status| status.pid);
    let mut hidden = false;
    for socket in found {
        let holders = sockets::holders(socket.inode);
        hidden |= holders.is_empty();
        let is_rightful = holders
            .iter()
            .any(|(holder, name)| Some(*holder) == pid || RIGHTFUL.contains(&name.as_str()));
        if !holders.is_empty() && !is_rightful {
            let names: BTreeSet<String> =
                holders.iter().map(|(pid, name)| format!("{name} (process {pid})")).collect();
            let names: Vec<_> = names.into_iter().collect();
            findings.add(
                Finding::fault("knock-port-taken", format!("another program has {port}: {}", names.join(", ")))
                    .at(SocketAddr::new(socket.at, socket.port).to_string())
                    .mend("stop that program, or write another port into `listen`; then: systemctl restart knockd"),
            );
        }
    }
    if hidden {
        return Err(Unable::of_denied(
            !nix::unistd::geteuid().is_root(),
            format!("which program has {port} can't be seen"),
        ));
    }
    Ok(())
}

/// Checks that somebody listens behind the door.
pub(super) fn services(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    for service in &examined.config()?.policy.services {
        // Behind this host can't be looked from here.
        if !service.to.is_empty() {
            continue;
        }
        for port in &service.ports {
            if is_led_elsewhere(examined, *port) {
                continue;
            }
            let found = sockets::listening(*port)?;
            let place = format!("service {}", service.name);
            if found.is_empty() {
                findings.add(
                    Finding::fault("nobody-listens", format!("nobody listens at {port} on this host: a knock opens it, and the connection is refused"))
                        .at(place)
                        .mend("start what serves it (for mosquitto: systemctl start mosquitto), or correct `ports` of the service"),
                );
            } else if found.iter().all(Listening::is_local) {
                findings.add(
                    Finding::fault("listens-on-loopback", format!("{port} is listened at on loopback addresses only: no device reaches it"))
                        .at(place)
                        .mend(format!("have its server listen at all addresses (for mosquitto: `listener {}` without a bind address)", port.number)),
                );
            }
        }
    }
    Ok(())
}

/// Whether a published port leads to a container, so that nobody needs to listen here.
fn is_led_elsewhere(examined: &Examined, port: Port) -> bool {
    let (Ok(host), Ok(rules)) = (examined.host(), examined.rules()) else { return false };
    host.outside().into_iter().any(|interface| {
        [IpFamily::V4, IpFamily::V6].into_iter().any(|family| {
            let packet = ways::packet(port, "new", interface, family, None, host);
            ways::translation(&packet, host, &rules.tables)
                .is_some_and(|(translated, reach)| reach > Truth::No && translated != packet)
        })
    })
}
