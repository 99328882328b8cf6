//! Sends to the service manager, by the protocol of sd_notify(3), and never waits for it: its socket is a datagram's,
//! and full when the manager doesn't read. What it must hear is sent again then.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use sd_notify::NotifyState;
use tracing::error;

/// Messages that are to be sent again, at most: of further ones the oldest is dropped.
const OWED: usize = 16;

/// The way to the manager.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    /// `None` where nobody listens.
    to: Option<(UnixDatagram, SocketAddr)>,
    owed: Vec<Owed>,
    /// Whether it was told that nothing arrives.
    complained: bool,
}

/// A message that is to be sent again.
#[derive(Debug)]
struct Owed {
    text: String,
    /// The next one of its kind stands for it as well.
    is_status: bool,
}

impl Notifier {
    /// Where the environment says (NOTIFY_SOCKET), if it does.
    pub(super) fn of_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            name => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        };
        let to = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        match to {
            Ok(to) => Self { to: Some(to), ..Self::default() },
            Err(error) => {
                let mut nobody = Self::default();
                nobody.complain(&error);
                nobody
            }
        }
    }

    /// Whether anybody listens.
    pub(super) const fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Whether something is to be sent again.
    pub(super) const fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Sends what is of use now or never, and before it what is to be sent again.
    pub(super) fn tell_now(&mut self, what: &NotifyState<'_>) {
        if self.catch_up() {
            let _ = self.send(&what.to_string());
        }
    }

    /// Sends this, or has it sent again.
    pub(super) fn tell(&mut self, what: &[NotifyState<'_>]) {
        if self.to.is_none() {
            return;
        }
        let is_status = matches!(what, [NotifyState::Status(_)]);
        self.owed.retain(|owed| !(is_status && owed.is_status));
        if self.owed.len() == OWED {
            self.owed.remove(0);
        }
        let lines: Vec<String> = what.iter().map(ToString::to_string).collect();
        self.owed.push(Owed { text: lines.join("\n"), is_status });
        self.catch_up();
    }

    /// Sends what is to be sent again, in its order. Whether all of it was.
    fn catch_up(&mut self) -> bool {
        while let Some(first) = self.owed.first() {
            if let Err(error) = self.send(&first.text) {
                self.complain(&error);
                return false;
            }
            self.owed.remove(0);
        }
        self.complained = false;
        true
    }

    fn send(&self, text: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.to else { return Ok(()) };
        socket.send_to_addr(text.as_bytes(), address).map(|_| ())
    }

    fn complain(&mut self, error: &io::Error) {
        if !self.complained {
            self.complained = true;
            error!(
                event = "manager-untold",
                "the service manager can't be told how the daemon is: {error}; tried again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_and_hears_what_matters_when_it_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let mut notifier = Notifier { to: Some((socket, address)), ..Notifier::default() };

        while notifier.send("junk").is_ok() {}
        notifier.tell(&[NotifyState::Reloading, NotifyState::MonotonicUsec(7)]);
        notifier.tell(&[NotifyState::Status("1 grant")]);
        notifier.tell(&[NotifyState::Status("2 grants")]);
        notifier.tell(&[NotifyState::Ready]);
        notifier.tell_now(&NotifyState::Watchdog);
        assert!(notifier.owes());

        let heard = || -> Vec<String> {
            let next = || {
                let mut bytes = [0; 100];
                let length = manager.recv(&mut bytes).ok()?;
                Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
            };
            std::iter::from_fn(next).filter(|text| text != "junk").collect()
        };
        assert_eq!(heard(), [""; 0]);
        notifier.tell_now(&NotifyState::Watchdog);
        let expected =
            ["RELOADING=1\nMONOTONIC_USEC=7", "STATUS=2 grants", "READY=1", "WATCHDOG=1"];
        assert_eq!((heard(), notifier.owes()), (expected.map(str::to_owned).into(), false));
    }
}
