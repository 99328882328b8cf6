//! The thread that tells what happened: to journald, or as lines on stderr.
//!
//! Both are somebody else's to read, and writing to either may wait for that. This thread waits, and nobody else.
//! `tracing_journald` sends from where the event is, on a blocking socket, and takes no error for an answer;
//! `tracing_appender` has such a thread for lines alone, and drops without regard to levels.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::errno::Errno;
use tracing::warn;

use super::{
    journal,
    queue::{Hearing, Message, Next, Queue},
};
use crate::clock;

/// The thread's name.
pub(super) const NAME: &str = "teller";
const STACK: usize = 128 * 1024;
/// Lines that wait are written together, up to so many bytes: a pipe takes that as a whole (PIPE_BUF, pipe(7)).
const TOGETHER: usize = 4096;
/// How long until it is tried again to tell what could not be told.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// Who takes what is told.
#[derive(Debug)]
pub(super) enum Taker {
    /// systemd-journald.
    Journal(UnixDatagram),
    /// Whoever reads stderr, or the file that it is.
    Lines(File),
}

impl Taker {
    /// journald, be it there or not.
    pub(super) fn journal() -> io::Result<Self> {
        Ok(Self::Journal(UnixDatagram::unbound()?))
    }

    /// stderr, without the lock of the standard library's: who holds that may be waiting.
    pub(super) fn stderr() -> io::Result<Self> {
        Ok(Self::Lines(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }

    /// Hands over what is left of a message, however long that takes.
    fn take(&mut self, message: &Message, done: &mut usize) -> io::Result<()> {
        match self {
            Self::Journal(socket) => {
                let late = clock::now().utc.as_millis().saturating_sub(message.at.as_millis());
                match Duration::from_millis(late) < journal::LATE {
                    true => socket.send_to(&message.bytes, journal::SOCKET)?,
                    false => socket.send_to(&journal::with_time(message), journal::SOCKET)?,
                };
            }
            Self::Lines(file) => {
                while let Some(rest) = message.bytes.get(*done..).filter(|rest| !rest.is_empty()) {
                    match file.write(rest) {
                        Ok(0) => return Err(ErrorKind::WriteZero.into()),
                        Ok(written) => *done += written,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts what waits behind a message to it, where it can be told with it; how many events it is then.
    fn put_together(&self, message: &mut Message, queue: &Queue) -> u64 {
        let mut events = 1;
        if let Self::Lines(_) = self {
            while let Some(room) = TOGETHER.checked_sub(message.bytes.len())
                && let Some(next) = queue.another(room)
            {
                message.bytes.extend(next.bytes);
                events += 1;
            }
        }
        events
    }

    /// Who still hears something, if it is no use to try this again.
    fn who_hears_after(&self, error: &io::Error) -> Option<Hearing> {
        let errno = error.raw_os_error().map(Errno::from_raw);
        match (self, errno) {
            // The message is too long.
            (Self::Journal(_), Some(Errno::EMSGSIZE)) => Some(Hearing::Somebody),
            (Self::Lines(_), Some(Errno::EPIPE | Errno::EBADF)) => Some(Hearing::Nobody),
            _ => None,
        }
    }
}

/// Begins to tell what is put into the queue.
///
/// # Errors
/// If there can be no thread.
pub(super) fn start(queue: &Arc<Queue>, mut taker: Taker) -> io::Result<()> {
    let queue = Arc::clone(queue);
    thread::Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(move || {
        loop {
            match queue.next() {
                Next::Tell(message) => tell(message, &mut taker, &queue),
                Next::Untold(events) => warn!(
                    events,
                    event = "events-untold",
                    "{events} events were not told: whoever takes them did not, and no more could wait"
                ),
            }
        }
    })?;
    Ok(())
}

/// Tells it, whenever that is possible.
fn tell(mut message: Message, taker: &mut Taker, queue: &Queue) {
    let events = taker.put_together(&mut message, queue);
    let mut done = 0;
    while let Err(error) = taker.take(&message, &mut done) {
        if let Some(hearing) = taker.who_hears_after(&error) {
            return queue.give_up(events, hearing);
        }
        thread::sleep(AFTER_A_FAILURE);
    }
}
