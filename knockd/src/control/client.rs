//! The commands' end: asks the daemon, and waits for its reply.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{Access, Refused, RefusedKind, Reply, Request, read_path};

/// How much longer than the daemon may take to wait for it.
const ALLOWANCE: Duration = Duration::from_secs(5);

/// For how long it is tried again where too many ask at once.
const WHILE_BUSY: Duration = Duration::from_secs(10);
/// How long to wait before it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks the daemon whose control socket is at this path; by the socket for readers, who may not connect to that one
/// and changes nothing.
///
/// # Errors
/// What stands in the way; `NotFound` and `ConnectionRefused` if no daemon listens there.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    match ask_patiently(path, request) {
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && request.access() == Access::Read =>
        {
            ask_patiently(&read_path(path), request).map_err(|_| error)
        }
        reply => reply,
    }
}

fn ask_patiently(path: &Path, request: &Request) -> io::Result<Reply> {
    let start = Instant::now();
    loop {
        match ask_once(path, request)? {
            Reply::Refused(Refused { kind: RefusedKind::Busy, .. })
                if start.elapsed() < WHILE_BUSY =>
            {
                thread::sleep(PAUSE);
            }
            reply => return Ok(reply),
        }
    }
}

fn ask_once(path: &Path, request: &Request) -> io::Result<Reply> {
    let mut connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(request.patience() + ALLOWANCE))?;
    connection.set_write_timeout(Some(ALLOWANCE))?;
    let mut text = serde_json::to_string(request).map_err(io::Error::other)?;
    text.push('\n');
    match connection.write_all(text.as_bytes()) {
        // Whoever has no place for it says so before it has heard what is asked.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "it hung up without a word"));
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}
