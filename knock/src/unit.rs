//! What a service manager's unit keeps this process from, and the setting that lets it.

use std::env;

/// For files that are written.
pub(crate) const STATE: &str = "where a unit of systemd runs knock, it can write nowhere but in its own folders: put the \
file into /var/lib/knock, or name its folder with StateDirectory= or ReadWritePaths= in a drop-in";

/// For files that are read.
pub(crate) const SECRET: &str = "where a unit of systemd runs knock, it sees neither /home nor /root nor another's /tmp: put \
the file into /etc/knock, or hand a key in with LoadCredential=key:FILE and Environment=KNOCK_KEY_FILE=%d/key in a drop-in";

/// Such an advice behind a message, where this process runs in a unit: systemd.exec(5), `INVOCATION_ID`.
pub(crate) fn hint(advice: &str) -> String {
    env::var_os("INVOCATION_ID").map_or_else(String::new, |_| format!(". {advice}"))
}
