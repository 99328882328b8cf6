//! Sockets that somebody else holds and passes on: systemd's socket units, by the protocol of sd_listen_fds(3).
//!
//! What such a socket receives while no daemon runs waits in it. Which socket is which is told by its kind: a
//! UDP socket is for knocks, a Unix stream socket is the control socket, or by its path the one for readers. What
//! isn't passed is bound as ever; but the one for readers only together with the control socket.
//!
//! # Security considerations
//! - A socket that isn't what the configuration says is refused at start: the table guards the port that is
//!   configured, and a daemon that listened elsewhere would look alive and let nobody in.

use std::{
    env, io,
    net::{SocketAddr, UdpSocket},
    os::unix::{ffi::OsStrExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process,
};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};

use crate::control::read_path;

/// What mends a socket unit.
const MEND: &str = "`systemctl edit knockd.socket`, then `systemctl restart knockd.socket`";

/// The sockets that were passed to this process.
#[derive(Debug, Default)]
pub struct Passed {
    /// For knocks.
    pub udp: Vec<UdpSocket>,
    /// The control socket.
    pub control: Option<UnixListener>,
    /// The socket for readers.
    pub read: Option<UnixListener>,
}

/// Why what was passed can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// One is of another kind.
    #[error(
        "socket {number} of those that were passed is neither a UDP socket (ListenDatagram=, for knocks) nor a Unix stream socket (ListenStream=/…, the control socket): {MEND}"
    )]
    Kind {
        /// Which one, from 1 on.
        number: usize,
    },
    /// There is more than one control socket.
    #[error("two control sockets were passed: write one ListenStream= ({MEND})")]
    TwoControls,
    /// The UDP sockets are others than `listen` says.
    #[error(
        "the sockets that were passed are bound to {}, and `listen` in knockd.toml says {}: write listen = [{}] there, or {} in knockd.socket ({MEND})",
        listed(.passed),
        listed(.configured),
        quoted(.passed),
        directives(.configured)
    )]
    Addresses {
        /// Where the sockets are bound.
        passed: Vec<SocketAddr>,
        /// Where they ought to be.
        configured: Vec<SocketAddr>,
    },
    /// `[::]` takes IPv4 as well and mustn't, or the other way round.
    #[error(
        "the socket that was passed for {address} takes {}: write BindIPv6Only={} in knockd.socket ({MEND})",
        if *.without_ipv4 { "no IPv4, and no other address is listed that does" } else { "IPv4 as well, and an IPv4 address is listed beside it" },
        if *.without_ipv4 { "both" } else { "ipv6-only" }
    )]
    Ipv6Only {
        /// The address.
        address: SocketAddr,
        /// How it is.
        without_ipv4: bool,
    },
    /// The control socket is elsewhere.
    #[error(
        "a control socket that was passed is {}, and by `control` in knockd.toml it is {}: write one for both, there or as ListenStream= in knockd.socket ({MEND})",
        .passed.display(),
        .configured.display()
    )]
    Control {
        /// Where the socket is.
        passed: PathBuf,
        /// Where it ought to be.
        configured: PathBuf,
    },
    /// The kernel doesn't tell about a socket.
    #[error("a socket that was passed can't be used: {0}")]
    System(#[from] io::Error),
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn quoted(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
}

fn directives(addresses: &[SocketAddr]) -> String {
    let each = addresses.iter().map(|address| format!("ListenDatagram={address}"));
    each.collect::<Vec<_>>().join(" and ")
}

impl Passed {
    /// Takes what was passed to this process, if anything was. To be called once, before there is another thread:
    /// the variables that tell of it are removed, so that no child believes that they are meant for it.
    ///
    /// # Errors
    /// [`PassedError::Kind`], [`PassedError::TwoControls`].
    pub fn take() -> Result<Self, PassedError> {
        // An environment without it was inherited from somebody who was meant.
        let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
        let mut sockets = if is_for_us { ListenFd::from_env() } else { ListenFd::empty() };
        let mut passed = Self::default();
        for index in 0..sockets.len() {
            if let Ok(Some(socket)) = sockets.take_udp_socket(index) {
                passed.udp.push(socket);
            } else if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
                let read = is_for_readers(&socket);
                let place = if read { &mut passed.read } else { &mut passed.control };
                if place.replace(socket).is_some() {
                    return Err(PassedError::TwoControls);
                }
            } else {
                return Err(PassedError::Kind { number: index + 1 });
            }
        }
        Ok(passed)
    }

    /// Whether the sockets for knocks are bound to these addresses, and no other.
    #[must_use]
    pub fn is_bound_to(&self, addresses: &[SocketAddr]) -> bool {
        let mut bound = self.udp.iter().map(UdpSocket::local_addr);
        self.udp.len() == addresses.len()
            && bound.all(|it| it.is_ok_and(|address| addresses.contains(&address)))
    }

    /// Compares it with the configuration.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, listen: &[SocketAddr], control: &Path) -> Result<(), PassedError> {
        if !self.udp.is_empty() {
            check_addresses(&self.udp, listen)?;
        }
        if let Some(socket) = &self.control {
            check_control(socket, control)?;
        }
        if let Some(socket) = &self.read {
            check_control(socket, &read_path(control))?;
        }
        Ok(())
    }
}

fn check_addresses(sockets: &[UdpSocket], listen: &[SocketAddr]) -> Result<(), PassedError> {
    let passed = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
    let is_same = passed.len() == listen.len() && passed.iter().all(|it| listen.contains(it));
    if !is_same {
        return Err(PassedError::Addresses { passed, configured: listen.to_vec() });
    }
    let has_ipv4 = listen.iter().any(SocketAddr::is_ipv4);
    for (socket, address) in sockets.iter().zip(passed) {
        if address.is_ipv6() && address.ip().is_unspecified() {
            let without_ipv4 = getsockopt(socket, sockopt::Ipv6V6Only).map_err(io::Error::from)?;
            if without_ipv4 != has_ipv4 {
                return Err(PassedError::Ipv6Only { address, without_ipv4 });
            }
        }
    }
    Ok(())
}

/// Whether a socket's name is that of one for readers; the whole path is compared with the configuration's later.
fn is_for_readers(socket: &UnixListener) -> bool {
    let address = socket.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    path.and_then(Path::file_stem).is_some_and(|name| name.as_bytes().ends_with(b"-read"))
}

fn check_control(socket: &UnixListener, control: &Path) -> Result<(), PassedError> {
    let address = socket.local_addr()?;
    let passed = address.as_pathname().unwrap_or(Path::new("(no path)"));
    // /var/run is the same as /run, where it is.
    let is_same = passed == control
        || matches!((passed.canonicalize(), control.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if is_same {
        return Ok(());
    }
    Err(PassedError::Control { passed: passed.to_owned(), configured: control.to_owned() })
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    };
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// A socket for `[::]`, on a port that the kernel picks.
    fn any_ipv6(only: bool) -> UdpSocket {
        let made = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::empty(), None);
        let made = made.unwrap();
        setsockopt(&made, sockopt::Ipv6V6Only, &only).unwrap();
        let any: SocketAddr = "[::]:0".parse().unwrap();
        bind(made.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
        made.into()
    }

    fn passed(udp: Vec<UdpSocket>) -> Passed {
        Passed { udp, ..Passed::default() }
    }

    #[test]
    fn sockets_that_are_bound_to_what_is_configured_are_taken_in_any_order() {
        let sockets = ["127.0.0.1:0", "127.0.0.2:0"].map(|any| UdpSocket::bind(any).unwrap());
        let mut listen: Vec<_> = sockets.iter().map(|it| it.local_addr().unwrap()).collect();
        listen.reverse();
        passed(sockets.into()).check(&listen, Path::new("/c")).unwrap();
    }

    #[test]
    fn another_address_is_told_with_what_to_write_in_either_file() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bound = socket.local_addr().unwrap();
        let listen = ["[::]:62201".parse().unwrap()];
        let error = passed(vec![socket]).check(&listen, Path::new("/c")).unwrap_err().to_string();
        assert!(error.contains(&format!("listen = [\"{bound}\"]")), "{error}");
        assert!(error.contains("ListenDatagram=[::]:62201 in knockd.socket"), "{error}");
        assert!(error.contains("systemctl restart knockd.socket"), "{error}");
    }

    #[test]
    fn one_socket_too_many_or_too_few_is_a_mismatch() {
        let [one, two] = ["127.0.0.1:0", "127.0.0.2:0"].map(|any| UdpSocket::bind(any).unwrap());
        let (first, second) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let check = |udp, listen: &[_]| passed(udp).check(listen, Path::new("/c"));
        let sockets = vec![one.try_clone().unwrap(), two];
        assert!(matches!(check(sockets, &[first]), Err(PassedError::Addresses { .. })));
        assert!(matches!(check(vec![one], &[first, second]), Err(PassedError::Addresses { .. })));
    }

    #[test]
    fn whether_the_socket_of_all_addresses_takes_ipv4_follows_from_what_is_listed_beside_it() {
        for (only, beside, fits) in [(false, false, true), (true, false, false), (true, true, true)]
        {
            let socket = any_ipv6(only);
            let address = socket.local_addr().unwrap();
            let (mut sockets, mut listen) = (vec![socket], vec![address]);
            if beside {
                let ipv4 = UdpSocket::bind(("0.0.0.0", address.port())).unwrap();
                listen.push(ipv4.local_addr().unwrap());
                sockets.push(ipv4);
            }
            let checked = passed(sockets).check(&listen, Path::new("/c"));
            assert_eq!(checked.is_ok(), fits, "{only} {beside}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("BindIPv6Only=both"), "{error}");
            }
        }
    }

    #[test]
    fn the_control_socket_must_be_where_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let control = Some(UnixListener::bind(&path).unwrap());
        let read = Some(UnixListener::bind(folder.path().join("control-read.sock")).unwrap());
        let passed = Passed { udp: Vec::new(), control, read };
        assert!(is_for_readers(passed.read.as_ref().unwrap()));
        assert!(!is_for_readers(passed.control.as_ref().unwrap()));
        passed.check(&[], &path).unwrap();
        let error = passed.check(&[], Path::new("/run/other.sock")).unwrap_err().to_string();
        assert!(error.contains("/run/other.sock") && error.contains("ListenStream="), "{error}");
    }
}
