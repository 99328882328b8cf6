//! `knockd run`: puts the rooms together, and leads packets through them until it is told to end.

use std::{future::ready, thread, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

pub use self::start::{Start, StartError};
use crate::{
    admission::{Admission, Done, Hearing, KernelState},
    client_counts::AllClients,
    clock::{self, watch::ClockWatch},
    control::{
        Reply, Request, Table,
        answer::{Parts, ToEnd},
        audit::Audit,
        server::{Asked, Control},
    },
    counts::Counts,
    gate::clock::Now,
    house::{self, Housekeeping},
    listener::Listener,
    mend::{Mender, Repairs, mend, refill},
    metrics::{Figures, Metrics},
    reload::Reload,
    replies::{self, Ways},
    setback,
    signals::{Signalled, Signals},
    snapshot::SnapshotWatch,
    supervisor::Supervisor,
    telemetry::{self, Telemetry},
};

mod restored;
mod start;

/// How long after a burst the kernel's drops are looked at.
const AFTER_A_BURST: Duration = Duration::from_secs(1);
/// How long the next packets wait after some of which none was accepted: under junk, waking for each costs
/// more than all the rest, and a knock among it is opened a little later.
const AFTER_JUNK: Duration = Duration::from_millis(3);
/// How long after a change that the kernel did not confirm, what it holds is looked at.
const AFTER_A_DOUBT: Duration = Duration::from_secs(2);
/// How long to wait after a failure to receive, so that a lasting one doesn't take a whole core.
const AFTER_A_FAILED_RECEIVE: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT; the door then stays as it is. SIGHUP applies a changed configuration.
///
/// # Errors
/// [`StartError`] if it can't start; whatever was shut stays shut.
pub fn run(start: Start) -> Result<(), StartError> {
    let system = |what| move |error| StartError::System { what, error };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the event loop"))?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::watch().map_err(system("signals"))?;
        let daemon = Daemon::start(start)?;
        setback::is_over();
        let signal = daemon.serve(&mut signals).await;
        info!(event = "ending", "{signal}: ending; the table and its doors stay as they are");
        Ok(())
    });
    // What is still read or looked up for somebody isn't waited for.
    runtime.shutdown_background();
    ended
}

/// The daemon at work.
struct Daemon {
    admission: Admission<Mender>,
    disk: Hearing,
    ways: Ways,
    snapshots: SnapshotWatch,
    listener: Listener,
    house: Housekeeping,
    clock: ClockWatch,
    reload: Reload,
    control: Control,
    audit: Audit,
    telemetry: Telemetry,
    counts: Counts,
    clients: AllClients,
    metrics: Metrics,
    since: Now,
    supervisor: Supervisor,
}

impl Daemon {
    /// Deals with one batch of datagrams after another, and keeps house between them, until a signal says
    /// to end: its name.
    async fn serve(mut self, signals: &mut Signals) -> &'static str {
        let mut due = Instant::now();
        self.supervisor.is_ready();
        self.tell_status();
        let mut refilled = false;
        loop {
            if self.admission.kernel() == KernelState::InDoubt {
                due = due.min(Instant::now() + AFTER_A_DOUBT);
            }
            if let Some(wait) = self.telemetry.sums_up_in(clock::now().uptime) {
                due = due.min(Instant::now() + wait);
            }
            if let Some(wait) = self.audit.sums_up_in() {
                due = due.min(Instant::now() + wait);
            }
            if let Some(ceiling) = self.admission.ceiling_due_in(clock::now()) {
                due = due.min(Instant::now() + ceiling);
            }
            self.admission.hand_over();
            tokio::select! {
                // In this order, so that no flood keeps anything from being done.
                biased;
                asked = signals.next() => match asked {
                    Signalled::End(signal) => {
                        self.supervisor.ends();
                        self.close();
                        self.telemetry.conclude(self.admission.gate().directory(), clock::now());
                        return signal;
                    }
                    Signalled::Reload => {
                        self.supervisor.reloads();
                        self.reload.begin(None);
                    }
                },
                () = self.supervisor.due() => {
                    self.supervisor.is_alive();
                    self.tell_status();
                }
                () = ready(()), if self.admission.firewall().refills() && !refilled => {
                    refill(&mut self.admission);
                    // What has come meanwhile is next.
                    refilled = true;
                    continue;
                }
                () = self.admission.firewall_mut().due() => {
                    mend(&mut self.admission, &mut self.house);
                    self.tell_status();
                    due = Instant::now();
                }
                () = self.snapshots.was_resumed() => {
                    house::lose_what_came_since_a_snapshot(&mut self.admission);
                    due = Instant::now();
                }
                Some(done) = self.disk.recv() => {
                    let is_health = done.ticket.is_none();
                    self.settle(done);
                    if is_health {
                        due = Instant::now();
                    }
                }
                // What follows is house.keep's, which looks at the clock first.
                () = self.clock.was_set() => due = Instant::now(),
                () = sleep_until(due) => {
                    due = Instant::now() + self.house.keep(&mut self.admission, &self.listener);
                    self.telemetry.sum_up(self.admission.gate().directory(), clock::now());
                    self.audit.sum_up();
                }
                read = self.reload.due() => {
                    self.reload.apply(read, &mut self.admission, &mut self.house);
                    // Before the place of one that is gone is another's.
                    self.clients.forget_who_is_gone(self.admission.gate().directory());
                    if let Err(error) = self.listener.keep_ways(self.reload.replies()) {
                        error!(event = "replies-failing", "replies can't be sent: {error}");
                    }
                    if !self.reload.waits_for_nft() {
                        self.supervisor.is_ready();
                    }
                    self.tell_status();
                    due = Instant::now();
                }
                Some(asked) = self.control.next() => self.answer(asked),
                asked = self.metrics.asked() => {
                    // Whoever asked may be gone.
                    let _ = asked.send(self.figures());
                }
                received = self.listener.receive() => match received {
                    Ok(()) => {
                        let now = clock::now();
                        if self.house.look_at_clock(&mut self.admission, now).is_some() {
                            due = Instant::now();
                        }
                        if self.deal_with_batch(now) > 0 {
                            self.tell_status();
                        } else if !self.listener.was_full() {
                            // Not the runtime's sleep: its timer would be one more wakeup.
                            thread::sleep(AFTER_JUNK);
                        }
                        if self.listener.was_full() {
                            due = due.min(Instant::now() + AFTER_A_BURST);
                        }
                    }
                    Err(error) => {
                        error!(event = "receive-failed", "can't receive: {error}");
                        sleep(AFTER_A_FAILED_RECEIVE).await;
                    }
                },
                // Nothing has.
                () = ready(()), if self.admission.firewall().refills() => {}
            }
            refilled = false;
        }
    }

    fn parts(&mut self) -> Parts<'_, Mender> {
        Parts {
            configuration: self.reload.status(),
            table: table(self.admission.firewall()),
            clock_steps: self.house.clock_steps(),
            admission: &mut self.admission,
            counts: &self.counts,
            receive_buffer_drops: self.listener.dropped().ok(),
            since: self.since,
            metrics_failing: self.metrics.failing(),
            to_end: None,
        }
    }

    fn figures(&mut self) -> Figures {
        let now = clock::now();
        let status = self.parts().status(now);
        let started = now.utc_of(self.since.uptime);
        Figures::new(status, started, &mut self.clients, self.admission.gate())
    }

    fn answer(&mut self, asked: Asked) {
        if asked.is_given_up() {
            return;
        }
        if let Some(refused) = asked.refusal() {
            let reply = Reply::Refused(refused);
            self.audit.report(&asked.request, &reply, asked.by);
            return asked.answer(reply);
        }
        if let Request::Reload { .. } = asked.request {
            Audit::report_reload(asked.by);
            self.supervisor.reloads();
            return self.reload.begin(Some(asked));
        }
        let mut parts = self.parts();
        let reply = parts.answer(&asked.request, clock::now());
        let to_end = parts.to_end;
        self.audit.report(&asked.request, &reply, asked.by);
        let mender = self.admission.firewall();
        match to_end {
            None => asked.answer(reply),
            Some(ToEnd::Of(source)) => {
                mender.end_connections_of(source);
                asked.answer(reply);
            }
            Some(ToEnd::Through(doors)) => {
                mender.end_connections_through(doors, Box::new(when_ended(asked, reply)));
            }
            Some(ToEnd::From(address, ports)) => {
                mender.end_connections_from(address, ports, Box::new(when_ended(asked, reply)));
            }
        }
    }

    /// How the daemon is, for `systemctl status`.
    fn tell_status(&mut self) {
        let admission = &self.admission;
        self.supervisor.status(|| {
            let (gate, uptime) = (admission.gate(), clock::now().uptime);
            let table = match admission.firewall().repairs().failing {
                None => "the table is whole",
                Some(_) => "THE TABLE CAN'T BE PUT RIGHT",
            };
            let clients = gate.directory().len();
            let grants = admission.grants().live(uptime);
            let bans = gate.bans().iter().filter(|(_, ban)| uptime < ban.until).count();
            format!("{table}; {clients} clients, {grants} grants, {bans} bans")
        });
    }

    /// Returns how many packets were accepted.
    fn deal_with_batch(&mut self, now: Now) -> usize {
        if self.admission.gate().lacks_tags_at(now.utc) {
            house::prepare_today(&mut self.admission);
        }
        let (telemetry, counts, clients) =
            (&mut self.telemetry, &mut self.counts, &mut self.clients);
        let accepted =
            self.admission.handle(self.listener.batch(), now, |outcome, source, gate| {
                counts.count(outcome);
                clients.count(outcome, gate.directory(), now.utc);
                telemetry.report(outcome, source, gate.directory(), now);
            });
        self.ways.keep(self.admission.waiting_for_reply(), &self.listener);
        replies::send(self.admission.take_replies(), &Ways::default(), &self.listener, counts);
        accepted
    }

    /// Deals with what the disk has done.
    fn settle(&mut self, first: Done) {
        let mut heard = vec![first];
        while let Ok(done) = self.disk.try_recv() {
            heard.push(done);
        }
        let now = clock::now();
        let (telemetry, counts, clients) =
            (&mut self.telemetry, &mut self.counts, &mut self.clients);
        self.admission.disk_has_done(heard, now, |outcome, source, gate| {
            counts.count(outcome);
            clients.count(outcome, gate.directory(), now.utc);
            telemetry.report(outcome, source, gate.directory(), now);
        });
        replies::send(self.admission.take_replies(), &self.ways, &self.listener, counts);
        let admission = &self.admission;
        self.ways.forget(|id| admission.waits(id));
        self.tell_status();
    }

    /// Has everything on the disk, so that a reboot loses nothing.
    fn close(&mut self) {
        if let Err(error) = self.admission.close(clock::now()) {
            warn!(
                event = "memory-unsynced",
                "what was accepted last may not be on the disk: {error}; after a reboot, packets stamped up to some seconds from now are refused"
            );
        }
        if let Ok(done) = self.disk.try_recv() {
            self.settle(done);
        }
    }
}

/// Answers when connections have been ended, with how many they were.
fn when_ended(asked: Asked, reply: Reply) -> impl FnOnce(Result<usize, String>) + Send {
    move |ended| asked.answer(reply.with_connections(ended))
}

fn table(mender: &Mender) -> Table {
    let Repairs { count, last, failing } = mender.repairs();
    let last = last.as_ref();
    Table {
        whole: mender.is_whole(),
        failing: failing.clone(),
        repairs: *count,
        lacked: last.map(|repair| repair.missing.clone()),
        since: last.map(|repair| telemetry::rfc3339(repair.since)),
        open_ms: last.and_then(|repair| u64::try_from(repair.open_for.as_millis()).ok()),
    }
}
