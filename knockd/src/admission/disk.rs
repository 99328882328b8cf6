//! The state folder's files, on a thread of their own: whoever orders something written doesn't wait for the disk.
//!
//! Orders are carried out one after another; what is to be synced of all that wait together is synced once. Whoever
//! needs to know that one is done takes a ticket, and hears of it by [`Hearing`]. Where no thread was started, as
//! in tests of what a disk refuses, each order is done when it is given.
//!
//! # Security considerations
//! - An order is carried out as it was given, and never dropped: a later one can rely on it.
//! - Only so many wait at once ([`WAITING`]). Beyond that, and where the disk refuses what it is told, nothing counts
//!   as written that it hasn't confirmed.

use std::{
    collections::VecDeque,
    fs::File,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::files::{Files, Sync};
use crate::journal::StateFile;

/// How many orders may wait for the disk.
const WAITING: usize = 1 << 16;
/// Orders that are carried out with one sync.
const AT_ONCE: usize = 1 << 10;
/// How long who asks the daemon for something waits for the disk, and the daemon with it.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a batch of packets waits for what is written of it. Once the disk has not answered in that time, nobody
/// waits again before it has.
const A_WHILE: Duration = Duration::from_millis(50);
/// How long the daemon's end waits for the disk: less than the service manager does for the daemon.
const AT_THE_END: Duration = Duration::from_secs(8);

/// Tells one order from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What has become of orders.
#[derive(Debug)]
pub struct Done {
    /// Which one; `None` where the disk begins to refuse what nobody waits for, or takes it again.
    pub ticket: Option<Ticket>,
    /// What the disk says.
    pub result: io::Result<()>,
}

type Job<D> = Box<dyn FnOnce(&mut Files<D>) -> io::Result<()> + Send>;

enum What<D> {
    Do(Vec<Job<D>>),
    Sync(Sync),
}

struct Order<D> {
    what: What<D>,
    ticket: Option<Ticket>,
}

/// The files, and who writes them.
pub(super) struct Disk<D = File> {
    hand: Hand<D>,
    next: u64,
    refusal: Option<io::Error>,
    /// An answer that did not come in time.
    late: Option<Receiver<io::Result<()>>>,
}

enum Hand<D> {
    Here {
        files: Box<Files<D>>,
        done: VecDeque<Done>,
    },
    Thread {
        orders: Sender<Order<D>>,
        /// What is ordered with the next one.
        next: Vec<Job<D>>,
        waiting: Arc<AtomicUsize>,
    },
}

/// Where what the thread has done is heard of.
pub type Hearing = UnboundedReceiver<Done>;

impl<D: StateFile> Disk<D> {
    /// Each order is done when it is given.
    pub(super) fn here(files: Files<D>) -> Self {
        let hand = Hand::Here { files: Box::new(files), done: VecDeque::new() };
        Self { hand, next: 0, refusal: None, late: None }
    }

    /// Why the disk refuses what it is told; `None` if it takes it, or hasn't answered yet.
    pub(super) const fn refusal(&self) -> Option<&io::Error> {
        self.refusal.as_ref()
    }

    /// Whether as many orders wait as may.
    pub(super) fn is_full(&self) -> bool {
        match &self.hand {
            Hand::Here { .. } => false,
            Hand::Thread { waiting, .. } => waiting.load(Ordering::Relaxed) >= WAITING,
        }
    }

    /// Has this done; what the disk says, if it has answered already.
    ///
    /// # Errors
    /// What the disk says. Where it hasn't answered, it may still come to refuse it: [`Self::refusal`].
    pub(super) fn order(
        &mut self,
        job: impl FnOnce(&mut Files<D>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        match &mut self.hand {
            Hand::Here { files, .. } => {
                let result = job(files);
                self.refusal = result.as_ref().err().map(copy);
                result
            }
            Hand::Thread { next, .. } => {
                next.push(Box::new(job));
                Ok(())
            }
        }
    }

    /// Has all that was ordered since the last time go to the disk at once. To be called when there is nothing else
    /// to be done.
    pub(super) fn hand_over(&mut self) {
        let Hand::Thread { next, .. } = &mut self.hand else { return };
        if !next.is_empty() {
            let jobs = mem::take(next);
            self.send(Order { what: What::Do(jobs), ticket: None });
        }
    }

    /// Has what was ordered since the last time done before anything that relies on it, and waits for that a while: a
    /// daemon that is killed then has it in its files.
    ///
    /// # Errors
    /// What the disk says of a grant that it refuses. It is no error if the disk doesn't answer in time: what it
    /// comes to refuse is told then.
    pub(super) fn have_it_done(&mut self) -> io::Result<()> {
        let Hand::Thread { next, .. } = &mut self.hand else { return Ok(()) };
        if next.is_empty() {
            return Ok(());
        }
        let (tell, answer) = mpsc::sync_channel(1);
        next.push(Box::new(move |files| {
            // Whoever has waited may be gone.
            let _ = tell.send(files.all_held());
            Ok(())
        }));
        self.hand_over();
        let is_late = |late: &Receiver<_>| matches!(late.try_recv(), Err(TryRecvError::Empty));
        if self.late.as_ref().is_some_and(is_late) {
            return Ok(());
        }
        self.late = None;
        answer.recv_timeout(A_WHILE).unwrap_or_else(|_| {
            self.late = Some(answer);
            Ok(())
        })
    }

    /// Has this done; the ticket under which [`Hearing`] tells of it.
    pub(super) fn order_and_hear(
        &mut self,
        job: impl FnOnce(&mut Files<D>) -> io::Result<()> + Send + 'static,
    ) -> Ticket {
        self.give_and_hear(What::Do(vec![Box::new(job)]))
    }

    /// Has this on the disk; the ticket under which [`Hearing`] tells of it.
    pub(super) fn sync(&mut self, sync: Sync) -> Ticket {
        self.give_and_hear(What::Sync(sync))
    }

    /// Has this done, and waits for it a while.
    ///
    /// # Errors
    /// What the disk says, or [`io::ErrorKind::TimedOut`]: then it is done as soon as the disk answers.
    pub(super) fn order_and_wait(
        &mut self,
        job: impl FnOnce(&mut Files<D>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.wait(job, PATIENCE)
    }

    /// The last order: has this done, and waits for it longer.
    ///
    /// # Errors
    /// As those of [`Self::order_and_wait`].
    pub(super) fn order_the_last(
        &mut self,
        job: impl FnOnce(&mut Files<D>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.wait(job, AT_THE_END)
    }

    /// What has been done by now and not been told yet, where there is no thread.
    pub(super) fn done(&mut self) -> Option<Done> {
        match &mut self.hand {
            Hand::Here { done, .. } => done.pop_front(),
            Hand::Thread { .. } => None,
        }
    }

    /// Takes note of what the disk says: by [`Self::refusal`].
    pub(super) fn note(&mut self, done: &Done) {
        self.refusal = done.result.as_ref().err().map(copy);
    }

    fn wait(
        &mut self,
        job: impl FnOnce(&mut Files<D>) -> io::Result<()> + Send + 'static,
        patience: Duration,
    ) -> io::Result<()> {
        if let Hand::Here { .. } = self.hand {
            return self.order(job);
        }
        let (tell, hear) = mpsc::sync_channel(1);
        let told = move |files: &mut Files<D>| {
            let result = job(files);
            // Whoever has waited may be gone.
            let _ = tell.send(copy_of(&result));
            result
        };
        self.hand_over();
        self.send(Order { what: What::Do(vec![Box::new(told)]), ticket: None });
        hear.recv_timeout(patience).unwrap_or_else(|_| {
            let text = "the disk doesn't answer; it is written when it does";
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }

    fn give_and_hear(&mut self, what: What<D>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.hand_over();
        self.send(Order { what, ticket: Some(ticket) });
        ticket
    }

    fn send(&mut self, order: Order<D>) {
        match &mut self.hand {
            Hand::Here { files, done } => carry_out(files, vec![order], |new| done.push_back(new)),
            Hand::Thread { orders, waiting, .. } => {
                waiting.fetch_add(1, Ordering::Relaxed);
                // The thread ends with this end of the channel, and not before.
                let _ = orders.send(order);
            }
        }
    }
}

impl<D: StateFile + Send + 'static> Disk<D> {
    /// From here on a thread does it.
    ///
    /// # Errors
    /// If there can be no other thread.
    pub(super) fn start_thread(self) -> io::Result<(Self, Hearing)> {
        let Hand::Here { files, .. } = self.hand else {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        };
        let (orders, ordered) = mpsc::channel();
        let (tell, done) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&waiting);
        thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || serve(*files, &ordered, &tell, &counted))?;
        let hand = Hand::Thread { orders, next: Vec::new(), waiting };
        Ok((Self { hand, next: self.next, refusal: self.refusal, late: None }, done))
    }
}

fn serve<D: StateFile>(
    mut files: Files<D>,
    orders: &Receiver<Order<D>>,
    tell: &UnboundedSender<Done>,
    waiting: &AtomicUsize,
) {
    let mut refuses = false;
    while let Ok(first) = orders.recv() {
        let mut all = vec![first];
        all.extend(orders.try_iter().take(AT_ONCE));
        let count = all.len();
        carry_out(&mut files, all, |done| {
            // Where nobody waits, a change alone is told.
            let changes = refuses != done.result.is_err();
            refuses = done.result.is_err();
            if done.ticket.is_some() || changes {
                let _ = tell.send(done);
            }
        });
        waiting.fetch_sub(count, Ordering::Relaxed);
    }
}

/// Carries out these orders in their order, and then syncs what is to be of all of them at once.
fn carry_out<D: StateFile>(
    files: &mut Files<D>,
    orders: Vec<Order<D>>,
    mut tell: impl FnMut(Done),
) {
    let (mut all, mut tickets) = (Sync::default(), Vec::new());
    for Order { what, ticket } in orders {
        match what {
            What::Do(jobs) => {
                let mut result = Ok(());
                for job in jobs {
                    // Each is carried out, whatever became of those before it.
                    let done = job(files);
                    result = result.and(done);
                }
                // What else was written says nothing of the packets that could not be.
                let result = result.and_then(|()| files.check_owed());
                tell(Done { ticket, result });
            }
            What::Sync(sync) => {
                all.counters.extend(sync.counters);
                all.ceiling = all.ceiling.max(sync.ceiling);
                tickets.push(ticket);
            }
        }
    }
    if tickets.is_empty() {
        return;
    }
    let synced = files.sync(&all);
    for ticket in tickets {
        tell(Done { ticket, result: copy_of(&synced) });
    }
}

fn copy_of(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(copy(error)),
    }
}

/// The same error once more.
pub(super) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
