//! What a port looks like from outside.

use std::net::IpAddr;

use crate::until::until;
use crate::world::Host;

/// What a port looks like, in nmap's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Connections are accepted.
    Open,
    /// Somebody answers that nobody listens.
    Closed,
    /// Nobody answers at all.
    Filtered,
    /// UDP: nobody answers, which a listener may do too.
    OpenOrFiltered,
}

impl State {
    fn of(word: &str) -> Self {
        match word {
            "open" => Self::Open,
            "closed" => Self::Closed,
            "filtered" => Self::Filtered,
            "open|filtered" => Self::OpenOrFiltered,
            other => panic!("unknown port state {other:?}"),
        }
    }
}

impl Host<'_> {
    /// What nmap run on this host says of a TCP port.
    #[track_caller]
    pub fn nmap(self, address: IpAddr, port: u16) -> State {
        self.nmap_with(&["-sS"], address, port)
    }

    /// What nmap, with these options, says of a port.
    #[track_caller]
    pub fn nmap_with(self, options: &[&str], address: IpAddr, port: u16) -> State {
        let (address6, port) = (address.is_ipv6(), port.to_string());
        let address = address.to_string();
        let mut argv = vec!["nmap", "-n", "-Pn", "--max-retries", "1"];
        argv.extend_from_slice(options);
        argv.extend_from_slice(&["-p", &port, &address]);
        if address6 {
            argv.push("-6");
        }
        let output = self.run(&argv).success();
        let line = output
            .stdout
            .lines()
            .find(|line| line.starts_with(&format!("{port}/")))
            .unwrap_or_else(|| panic!("no line for port {port} from {output}"));
        State::of(line.split_whitespace().nth(1).unwrap_or_default())
    }

    /// What one plain TCP connection finds, without nmap: quicker.
    #[track_caller]
    pub fn tcp(self, address: IpAddr, port: u16) -> State {
        self.tcp_from(0, address, port)
    }

    /// What one plain TCP connection from this port of the host finds.
    #[track_caller]
    pub fn tcp_from(self, from_port: u16, address: IpAddr, port: u16) -> State {
        let target = std::net::SocketAddr::new(address, port).to_string();
        let output = self.packet(&["probe", &target, "--from-port", &from_port.to_string()]);
        State::of(output.stdout.trim())
    }

    /// Waits until a plain TCP connection finds the port in this state.
    #[track_caller]
    pub fn tcp_until(self, address: IpAddr, port: u16, state: State) {
        until(&format!("{} finds {address} port {port} {state:?}", self.name()), || {
            self.tcp(address, port) == state
        });
    }
}
