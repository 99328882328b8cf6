//! Waits for the door: probes every address at once until the service's port accepts.

use std::{
    io,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    exit::Error,
    plan::Wait,
    probes::{Accepted, Probes},
};

/// How long the packet is ahead of the first attempt: the daemon takes a good tenth of a millisecond to
/// open, and a SYN that comes too early costs a whole attempt.
const HEAD_START: Duration = Duration::from_micros(250);

/// Looks until an address accepts or the time is over. The packets are out; `start` is what the probes' time is
/// counted from.
pub(crate) fn until_open(
    mut probes: Probes,
    wait: Wait,
    start: Instant,
) -> Result<Accepted, Error> {
    sleep(HEAD_START);
    // What was answered by now was answered before the door can have opened.
    probes.look(start.elapsed());
    probes.knocked(start.elapsed(), wait.limit);
    loop {
        let now = start.elapsed();
        probes.look(now);
        if let Some(accepted) = probes.accepted(now) {
            return Ok(accepted);
        }
        if probes.is_over(now) {
            return Err(Error::NotOpen(format!(
                "{} did not open within {:?}: {}",
                wait.port,
                wait.limit,
                probes.reasons()
            )));
        }
        let mut fds: Vec<_> = probes.fds().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).collect();
        rest(&mut fds, probes.due().saturating_sub(now))?;
    }
}

/// Waits until one of these is ready, or this time is over.
pub(crate) fn rest(fds: &mut [PollFd<'_>], time: Duration) -> Result<(), Error> {
    // A millisecond more, so that the time is over when this returns.
    let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(fds, time) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => {
            Err(Error::System(format!("can't wait for the network: {}", io::Error::from(error))))
        }
    }
}
