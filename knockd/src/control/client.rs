//! The commands' end: asks the daemon, and waits for its reply.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{Reply, Request};

/// How much longer than the daemon may take to wait for it.
const ALLOWANCE: Duration = Duration::from_secs(5);

/// Asks the daemon that listens at this path.
///
/// # Errors
/// What stands in the way; `NotFound` and `ConnectionRefused` if no daemon listens there.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let mut connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(request.patience() + ALLOWANCE))?;
    connection.set_write_timeout(Some(ALLOWANCE))?;
    let mut text = serde_json::to_string(request).map_err(io::Error::other)?;
    text.push('\n');
    connection.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up without a word"));
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}
