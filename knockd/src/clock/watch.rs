//! Hears of it at once when somebody sets the clock on the wall, without ever looking at it.
//!
//! A timer for the end of time that is cancelled when the clock is set: timerfd_create(2),
//! TFD_TIMER_CANCEL_ON_SET. A thread waits for that, and nothing else wakes it.

use std::{io, sync::Arc, thread};

use nix::{
    libc,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use tokio::sync::Notify;
use tracing::error;

/// Waits for the clock to be set. What it misses, each batch of packets and each look of the housekeeping's
/// finds: it is there so that an idle daemon knows, too.
#[derive(Debug)]
pub struct ClockWatch {
    set: Arc<Notify>,
}

impl ClockWatch {
    /// Begins to watch. Where the kernel gives no such timer, or no thread, that is told, and it never hears anything:
    /// each batch of packets and each look of the housekeeping's finds what it missed.
    #[must_use]
    pub fn start() -> Self {
        let set = Arc::new(Notify::new());
        if let Err(error) = watch(Arc::clone(&set)) {
            error!(event = "clock-unwatched", "can't watch the clock: {error}");
        }
        Self { set }
    }

    /// Waits until the clock was set since the last time. Nothing is lost if it is dropped.
    pub async fn was_set(&self) {
        self.set.notified().await;
    }
}

fn watch(set: Arc<Notify>) -> io::Result<()> {
    let timer = until_it_is_set()?;
    thread::Builder::new().name("clock".to_owned()).stack_size(64 * 1024).spawn(move || {
        // A cancelled timer counts as one that is over here (nix), and stays armed.
        while timer
            .wait()
            .inspect_err(|error| {
                error!(event = "clock-unwatched", "can't watch the clock: {error}")
            })
            .is_ok()
        {
            set.notify_one();
        }
    })?;
    Ok(())
}

/// A timer that is cancelled when the clock is set, and else never over.
fn until_it_is_set() -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    timer.set(
        Expiration::OneShot(TimeSpec::new(libc::time_t::MAX, 0)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn the_kernel_gives_such_a_timer_and_while_nobody_sets_the_clock_it_is_not_over() {
        let timer = until_it_is_set().unwrap();
        assert!(timer.get().unwrap().is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watch = ClockWatch::start();
            assert!(timeout(Duration::from_millis(50), watch.was_set()).await.is_err());
        });
    }
}
