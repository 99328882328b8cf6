//! All that a keeper waits for, in one poll(2): signals, the time, the clock being set, the network, the resolver,
//! and the connections that look whether the door is open.
//!
//! Time is CLOCK_BOOTTIME: nobody sets it, and it goes on while the device sleeps, so that one which slept beyond
//! its grant knocks as soon as it wakes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd, siginfo},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time,
};

use crate::{
    exit::Error,
    keep::{names::Question, network::Network, notices::Change, step::Awaited},
};

/// What is taken notice of. All others do to this process what they always do.
const SIGNALS: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A process, to this one.
    Process,
    /// The kernel: from the terminal, to every process of the foreground.
    Terminal,
}

/// What one wait has brought.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) signals: Vec<(Signal, Sender)>,
    pub(super) change: Option<Change>,
    pub(super) clock_was_set: bool,
    pub(super) is_answered: bool,
}

/// What is always waited for.
#[derive(Debug)]
pub(super) struct Wires {
    signals: SignalFd,
    timer: TimerFd,
    /// Cancelled when somebody sets the clock on the wall, and else never over: timerfd_create(2).
    clock: TimerFd,
    network: Network,
}

impl Wires {
    /// Takes the signals, and begins to listen.
    ///
    /// # Errors
    /// If the system gives one of the descriptors not.
    pub(super) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Self> {
            let mask: SigSet = SIGNALS.into_iter().collect();
            mask.thread_block()?;
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let clock = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
            clock.set(
                Expiration::OneShot(TimeSpec::new(libc::time_t::MAX, 0)),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
            )?;
            Ok(Self {
                signals: SignalFd::with_flags(
                    &mask,
                    SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
                )?,
                timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?,
                clock,
                network: Network::listen()?,
            })
        };
        open().map_err(failure)
    }

    /// Waits until there is something to do, at the latest until `due`.
    ///
    /// # Errors
    /// If the system can't wait.
    pub(super) fn wait(
        &mut self,
        due: Duration,
        question: Option<&Question>,
        awaited: &Awaited,
    ) -> Result<Ready, Error> {
        // A time of zero would switch the timer off.
        let due = TimeSpec::from_duration(due.max(Duration::from_nanos(1)));
        self.timer
            .set(Expiration::OneShot(due), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .map_err(failure)?;
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let own: [BorrowedFd<'_>; 4] =
            [self.signals.as_fd(), self.timer.as_fd(), self.clock.as_fd(), self.network.as_fd()];
        let mut fds: Vec<PollFd<'_>> = own.into_iter().map(readable).collect();
        fds.extend(question.map(|question| readable(question.fd())));
        match awaited {
            Awaited::Nothing => {}
            Awaited::Probes(probes) => {
                fds.extend(probes.fds().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
            }
            Awaited::Replies(replies) => fds.extend(replies.fds().map(readable)),
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failure(error)),
        }
        let is_ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        let (clock, network) = (is_ready(2), is_ready(3));
        let is_answered = question.is_some() && is_ready(4);
        drop(fds);
        Ok(Ready {
            signals: self.signals(),
            change: if network { self.network.changes() } else { None },
            clock_was_set: clock && self.clock.wait().is_ok(),
            is_answered,
        })
    }

    fn signals(&mut self) -> Vec<(Signal, Sender)> {
        let mut signals = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            signals.extend(signal(&info));
        }
        signals
    }
}

fn signal(info: &siginfo) -> Option<(Signal, Sender)> {
    let number = i32::try_from(info.ssi_signo).ok()?;
    let sender = if info.ssi_code == libc::SI_KERNEL { Sender::Terminal } else { Sender::Process };
    Some((Signal::try_from(number).ok()?, sender))
}

fn failure(error: impl Into<io::Error>) -> Error {
    let error: io::Error = error.into();
    Error::System(format!("the system can't wait for signals, the time and the network: {error}"))
}

/// The time since the device was started, sleep included.
///
/// # Errors
/// If the system has no such clock.
pub(super) fn now() -> Result<Duration, Error> {
    time::clock_gettime(time::ClockId::CLOCK_BOOTTIME).map(Duration::from).map_err(failure)
}
