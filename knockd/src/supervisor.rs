//! What the service manager is told, by the protocol of sd_notify(3): that the daemon listens, reloads or ends, how
//! it is in one line, and, at regular times, that the loop that receives packets goes round.
//!
//! Without a manager that asks for it (NOTIFY_SOCKET, WATCHDOG_USEC) nothing is told, and nothing wakes. One that asks
//! and doesn't read is not waited for.

mod notify;

use std::{
    future::pending,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::{
    sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    unistd::read,
};
use sd_notify::NotifyState;
use tokio::{io::unix::AsyncFd, time::sleep};

use self::notify::Notifier;

/// The line is sent at most this often.
const BETWEEN_STATUSES: Duration = Duration::from_secs(2);
/// How long until what the manager did not take is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The service manager, as the daemon sees it.
pub struct Supervisor {
    /// Runs out every half of the time after which the manager takes the daemon for stuck; `None` if it doesn't.
    timer: Option<AsyncFd<OwnedFd>>,
    notifier: Notifier,
    status: Status,
}

/// The line that says how the daemon is.
#[derive(Debug, Default)]
struct Status {
    sent: String,
    looked: Option<Instant>,
}

impl Status {
    /// The line if it is to be sent now; not even made if it is too early.
    fn due(&mut self, make: impl FnOnce() -> String, now: Instant) -> Option<&str> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < BETWEEN_STATUSES) {
            return None;
        }
        self.looked = Some(now);
        let line = make();
        if line == self.sent {
            return None;
        }
        self.sent = line;
        Some(&self.sent)
    }
}

impl Supervisor {
    /// Asks the environment what the manager wants to know. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn of_environment() -> io::Result<Self> {
        let timer = sd_notify::watchdog_enabled().map(|limit| every(limit / 2)).transpose()?;
        Ok(Self { timer, notifier: Notifier::of_environment(), status: Status::default() })
    }

    /// Waits until it is time to say that the loop goes round ([`Self::is_alive`]); for ever if nobody asks. Nothing is
    /// lost if it is dropped.
    pub async fn due(&self) {
        tokio::select! {
            () = sleep(AGAIN_AFTER), if self.notifier.owes() => {}
            () = self.ran_out() => {}
        }
    }

    async fn ran_out(&self) {
        let Some(timer) = &self.timer else { return pending().await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return pending().await };
            // Who reads the count has it run out anew.
            match read(timer.get_ref(), &mut [0; 8]) {
                Ok(_) => return,
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// The loop goes round.
    pub fn is_alive(&mut self) {
        self.notifier.tell_now(&NotifyState::Watchdog);
    }

    /// The daemon listens, or has done what it was reloaded for.
    pub fn is_ready(&mut self) {
        self.notifier.tell(&[NotifyState::Ready]);
    }

    /// A reload has begun; [`Self::is_ready`] ends it.
    pub fn reloads(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(since) => self.notifier.tell(&[NotifyState::Reloading, since]),
            Err(_) => self.notifier.tell(&[NotifyState::Reloading]),
        }
    }

    /// The daemon ends.
    pub fn ends(&mut self) {
        self.notifier.tell(&[NotifyState::Stopping]);
    }

    /// How the daemon is. Told if it is another line than before, and every two seconds at most: what is dropped
    /// for that, a later call tells.
    pub fn status(&mut self, line: impl FnOnce() -> String) {
        if !self.notifier.is_heard() {
            return;
        }
        if let Some(line) = self.status.due(line, Instant::now()) {
            self.notifier.tell(&[NotifyState::Status(line)]);
        }
    }
}

/// Why the daemon can't start, for `systemctl status`: its first line.
pub fn cannot_start(why: &str) {
    let line = why.lines().next().unwrap_or_default();
    Notifier::of_environment().tell(&[NotifyState::Status(&format!("can't start: {line}"))]);
}

/// A timer of the kernel's: one wakeup each time, where the runtime's own would make three.
fn every(interval: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let timer =
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
    #[expect(
        deprecated,
        reason = "it takes types that don't own their descriptor, too, which its successor has promised in an \
                  unsafe block; this one does"
    )]
    AsyncFd::new(OwnedFd::from(timer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_runs_out_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timer = Some(every(Duration::from_millis(5)).unwrap());
            let supervisor =
                Supervisor { timer, notifier: Notifier::default(), status: Status::default() };
            let begin = Instant::now();
            for _ in 0..3 {
                supervisor.due().await;
            }
            assert!(begin.elapsed() >= Duration::from_millis(15));
        });
    }

    #[test]
    fn a_line_is_told_when_it_is_another_one_and_not_made_when_it_is_too_early() {
        let (mut status, start) = (Status::default(), Instant::now());
        let mut due = |line: &str, after: Duration| {
            let made = std::cell::Cell::new(false);
            let make = || {
                made.set(true);
                line.to_owned()
            };
            (status.due(make, start + after).is_some(), made.get())
        };
        let early = BETWEEN_STATUSES - Duration::from_millis(1);
        assert_eq!(due("1 grant", Duration::ZERO), (true, true));
        assert_eq!(due("2 grants", early), (false, false));
        assert_eq!(due("2 grants", BETWEEN_STATUSES), (true, true));
        assert_eq!(due("2 grants", 2 * BETWEEN_STATUSES), (false, true));
    }
}
