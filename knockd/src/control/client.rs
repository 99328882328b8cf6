//! The commands' end: asks the daemon, and waits for its reply.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{Reply, Request};

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the daemon that listens at this path.
///
/// # Errors
/// What stands in the way; `NotFound` and `ConnectionRefused` if no daemon listens there.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let mut connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
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
