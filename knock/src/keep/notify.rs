//! Tells the service manager: sd_notify(3), without its library.

use std::{
    env,
    ffi::OsString,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable that names the service manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The way to the service manager, if one started this process and wants to know.
#[derive(Debug)]
pub(super) struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Manager {
    /// As the environment says.
    pub(super) fn of_this_process() -> Self {
        let to = env::var_os(VARIABLE).and_then(address).and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A manager that doesn't read must not hold the door's renewals up.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Self { to }
    }

    /// Tells a state, such as `READY=1`. Whom nobody listens to has nothing to do about it.
    pub(super) fn tell(&self, state: &str) {
        if let Some((socket, to)) = &self.to {
            let _ = socket.send_to_addr(state.as_bytes(), to);
        }
    }
}

/// A path, or behind '@' a name of Linux's own.
fn address(name: OsString) -> Option<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'/', _)) => SocketAddr::from_pathname(name).ok(),
        Some((b'@', name)) => SocketAddr::from_abstract_name(name).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_named_by_a_path_or_an_abstract_name_and_by_nothing_else() {
        for (name, is_one) in
            [("/run/systemd/notify", true), ("@a", true), ("run/x", false), ("", false)]
        {
            assert_eq!(address(name.into()).is_some(), is_one, "{name:?}");
        }
    }
}
