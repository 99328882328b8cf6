//! What is to be told and waits for the one who tells it: a bounded queue, into which nobody ever waits to put
//! something.
//!
//! # Security considerations
//! - What doesn't fit is counted, and dropped: whoever doesn't read the log stops nothing but the log.
//! - A quarter of the room is kept for warnings and errors, so that no number of events at info pushes one out.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::Timestamp;
use tracing::Level;

/// Bytes that wait at most: some twenty thousand events.
const ROOM: usize = 8 << 20;
/// What a message takes beside its text.
const OVERHEAD: usize = size_of::<Message>();

/// An event as it goes out.
#[derive(Debug)]
pub(super) struct Message {
    /// When it happened.
    pub(super) at: Timestamp,
    /// Its text, in the form of whoever takes it.
    pub(super) bytes: Vec<u8>,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// To tell this.
    Tell(Message),
    /// To tell that so many events were dropped since the last time.
    Untold(u64),
}

/// Whether there is anybody who takes what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// There is, but not for this.
    Somebody,
    /// There is nobody any more.
    Nobody,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    bytes: usize,
    /// Whether something was taken and isn't told yet.
    telling: bool,
    /// Whether anybody waits for either: telling them is a system call.
    idle: bool,
    awaited: bool,
    /// Events that were dropped, and those of them that nobody was told of.
    untold: u64,
    unreported: u64,
}

impl Queue {
    /// Puts an event behind those that wait, or drops and counts it.
    pub(super) fn put(&self, level: Level, message: Message) {
        // The more a level tells, the greater it is.
        let room = if level <= Level::WARN { ROOM } else { ROOM / 4 * 3 };
        let mut state = self.lock();
        let bytes = state.bytes + message.size();
        if bytes > room {
            state.drop_one();
            return;
        }
        state.bytes = bytes;
        state.waiting.push_back(message);
        let wakes = std::mem::take(&mut state.idle);
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Waits for the next thing to do. What was taken before is done with.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        state.telling = false;
        loop {
            // Told when there is room for it again.
            if state.unreported > 0 && state.bytes < ROOM / 2 {
                state.telling = true;
                return Next::Untold(std::mem::take(&mut state.unreported));
            }
            if let Some(message) = state.waiting.pop_front() {
                state.bytes -= message.size();
                state.telling = true;
                return Next::Tell(message);
            }
            if std::mem::take(&mut state.awaited) {
                self.emptied.notify_all();
            }
            state.idle = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What waits behind what was taken, if that has no more bytes than this: it is taken as well.
    pub(super) fn another(&self, bytes: usize) -> Option<Message> {
        let mut state = self.lock();
        state.waiting.front().filter(|message| message.bytes.len() <= bytes)?;
        let message = state.waiting.pop_front()?;
        state.bytes -= message.size();
        Some(message)
    }

    /// Counts so many events that were taken as dropped: they can't be told. That they were not is told, if anybody
    /// can hear that.
    pub(super) fn give_up(&self, events: u64, hearing: Hearing) {
        let mut state = self.lock();
        state.untold += events;
        if hearing == Hearing::Somebody {
            state.unreported += events;
        }
    }

    /// How many events were dropped.
    pub(super) fn untold(&self) -> u64 {
        self.lock().untold
    }

    /// Waits until everything is told, for so long at most. Whether it is.
    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.telling || state.unreported > 0 || !state.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state.awaited = true;
            let waited = self.emptied.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn drop_one(&mut self) {
        self.untold += 1;
        self.unreported += 1;
    }
}

impl Message {
    const fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message { at: Timestamp::from_millis(0), bytes: text.into() }
    }

    /// Events of a kilobyte that fit in.
    fn fill(queue: &Queue, level: Level) -> usize {
        let before = queue.untold();
        let text = "x".repeat(1024);
        (0..)
            .find(|_| {
                queue.put(level, message(&text));
                queue.untold() > before
            })
            .unwrap()
    }

    fn told(queue: &Queue) -> String {
        match queue.next() {
            Next::Tell(message) => String::from_utf8(message.bytes).unwrap(),
            Next::Untold(count) => format!("{count} untold"),
        }
    }

    #[test]
    fn events_are_told_in_their_order() {
        let queue = Queue::default();
        for (level, text) in [(Level::INFO, "1"), (Level::ERROR, "2"), (Level::DEBUG, "3")] {
            queue.put(level, message(text));
        }
        assert_eq!([told(&queue), told(&queue), told(&queue)], ["1", "2", "3"]);
        assert_eq!(queue.untold(), 0);
    }

    #[test]
    fn what_waits_is_taken_together_in_its_order_as_far_as_there_is_room_for_it() {
        let queue = Queue::default();
        for text in ["1", "22", "333"] {
            queue.put(Level::INFO, message(text));
        }
        assert_eq!(told(&queue), "1");
        assert!(queue.another(1).is_none());
        assert_eq!(queue.another(2).unwrap().bytes, b"22");
        queue.give_up(2, Hearing::Somebody);
        assert_eq!([told(&queue), told(&queue)], ["2 untold", "333"]);
        assert!(queue.another(9).is_none());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_when_there_is_room_again() {
        let queue = Queue::default();
        let fitted = fill(&queue, Level::INFO);
        assert!(fitted > 1_000, "{fitted}");
        queue.put(Level::INFO, message(&"y".repeat(1024)));
        assert_eq!(queue.untold(), 2);
        let mut before = 0;
        while told(&queue) != "2 untold" {
            before += 1;
        }
        assert!(before < fitted);
        assert_eq!(queue.untold(), 2, "told once, and counted for ever");
        assert_ne!(told(&queue), "0 untold");
    }

    #[test]
    fn a_queue_full_of_infos_takes_warnings_and_errors_still() {
        let queue = Queue::default();
        let infos = fill(&queue, Level::INFO);
        assert!(fill(&queue, Level::WARN) > infos / 4);
        assert_eq!(fill(&queue, Level::ERROR), 0);
    }

    #[test]
    fn who_waits_for_the_end_waits_for_what_was_taken_as_well_and_not_for_ever() {
        let queue = Queue::default();
        let short = Duration::from_millis(10);
        assert!(queue.wait_until_empty(short));
        queue.put(Level::INFO, message("1"));
        assert!(!queue.wait_until_empty(short));
        assert_eq!(told(&queue), "1");
        assert!(!queue.wait_until_empty(short), "it is being told");
        std::thread::scope(|scope| {
            scope.spawn(|| queue.next());
            assert!(queue.wait_until_empty(Duration::from_secs(60)));
            queue.put(Level::INFO, message("the end"));
        });
    }
}
