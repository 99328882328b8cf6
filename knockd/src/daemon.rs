//! `knockd run`: puts the rooms together, and leads packets through them until it is told to end.

use std::{
    io, mem,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::{
    activation::{Passed, PassedError},
    admission::{Admission, KernelState},
    client_counts::AllClients,
    clock::{self, watch::ClockWatch},
    config::{
        AUTO_LIMIT, Config, Environment, Located, PrefilterMode,
        reload::{Places, Stamps},
    },
    control::{
        Reply, Request, Table,
        answer::{Parts, ToEnd},
        server::{Asked, Control},
    },
    counts::Counts,
    firewall::{
        FirewallError,
        connections::Sweeper,
        kernel::Kernel,
        ruleset::Ruleset,
        table::{self, TableState},
        watch::Watch,
    },
    gate::{clock::Now, directory::Directory},
    house::{self, Housekeeping},
    journal::{BootId, DaemonId, StateError, StateFolder, Writer, seen::Condition},
    listener::{ListenError, Listener},
    lost_counters,
    mend::{Mender, Repairs, mend},
    metrics::{Figures, Metrics},
    plan,
    reload::Reload,
    replies,
    restore::{FileCondition, RestoreError, Restored, restore},
    roster::Roster,
    setback,
    signals::{Signalled, Signals},
    supervisor::Supervisor,
    tags::TagKeeper,
    telemetry::{self, Telemetry},
};

/// How long after a burst the kernel's drops are looked at, and held back events are summed up.
const AFTER_A_BURST: Duration = Duration::from_secs(1);
/// How long the next packets wait after some of which none was accepted: under junk, waking for each costs
/// more than all the rest, and a knock among it is opened a little later.
const AFTER_JUNK: Duration = Duration::from_millis(3);
/// How long after a change that the kernel did not confirm, what it holds is looked at.
const AFTER_A_DOUBT: Duration = Duration::from_secs(2);
/// How long to wait after a failure to receive, so that a lasting one doesn't take a whole core.
const AFTER_A_FAILED_RECEIVE: Duration = Duration::from_millis(100);

/// Why the daemon can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder, or what is in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel's table.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A socket to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket that was passed on.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The control socket.
    #[error("the control socket {path}: {error} (control = \"…\")")]
    Control {
        /// Where it ought to be.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The endpoint of the metrics.
    #[error("the metrics' endpoint: {0} ([metrics] listen = \"…\")")]
    Metrics(io::Error),
    /// Something else of the system's.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

impl From<RestoreError> for StartError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::State(error) => Self::State(error),
            RestoreError::Firewall(error) => Self::Firewall(error),
        }
    }
}

/// What the daemon starts from.
pub struct Start {
    /// The configuration, and where each client is.
    pub located: Located,
    /// Where the configuration is.
    pub path: PathBuf,
    /// The stamps of the clients' files, taken before they were read.
    pub stamps: Stamps,
    /// The sockets that systemd holds.
    pub passed: Passed,
}

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
    runtime.block_on(async {
        let mut signals = Signals::watch().map_err(system("signals"))?;
        let daemon = Daemon::start(start)?;
        setback::is_over();
        let signal = daemon.serve(&mut signals).await;
        info!(event = "ending", "{signal}: ending; the table and its doors stay as they are");
        Ok(())
    })
}

/// The daemon at work.
struct Daemon {
    admission: Admission<Mender>,
    listener: Listener,
    house: Housekeeping,
    clock: ClockWatch,
    reload: Reload,
    control: Control,
    telemetry: Telemetry,
    counts: Counts,
    clients: AllClients,
    metrics: Metrics,
    since: Now,
    supervisor: Supervisor,
}

impl Daemon {
    /// Takes everything up in the order in which it must stand: the lock, the watch, the table, the past, the
    /// tags, the socket.
    fn start(
        Start { located: Located { mut config, origins }, path, stamps, passed }: Start,
    ) -> Result<Self, StartError> {
        passed.check(config.listen.addresses(), &config.control)?;
        let folder = StateFolder::open(&config.state)?;
        let system = |what| move |error| StartError::System { what, error };
        let writer = Writer {
            boot: BootId::current().map_err(system("/proc/sys/kernel/random/boot_id"))?,
            daemon: DaemonId::from_random(random().map_err(system("random bytes"))?),
        };
        let mender = mender(&config, &path)?;
        let clients = mem::take(&mut config.clients);

        let in_force = config.clone();
        let Config { policy, clients_dir, listen, prefilter, control, metrics, .. } = config;
        let places =
            Places { main: path, environment: Environment::of_process(), folder: clients_dir };
        let count = clients.len();
        let filters = prefilter.filters(count);
        if !filters && prefilter.mode == PrefilterMode::Auto {
            warn!(
                clients = count,
                event = "filter-off",
                "the kernel doesn't filter by tags: with more than {AUTO_LIMIT} clients that would make every listing of the ruleset slow"
            );
        }
        let directory = Directory::new(policy.services.clone(), clients, &policy.realm);
        let services = policy.services.iter().map(|service| service.name).collect();
        let roster = Roster::new(places, services, policy.realm, &stamps, &origins, &directory);
        let now = clock::now();
        let (mut admission, restored) = restore(&policy, directory, folder, writer, mender, now)?;
        report_restored(&restored);
        lost_counters::report(&admission);
        if let Err(error) = admission.look_up_own_addresses(now) {
            warn!(
                event = "own-addresses-unknown",
                "this host's own addresses can't be read, and could be banned until they can: {error}"
            );
        }
        let mut house = Housekeeping::new(filters.then(|| TagKeeper::new(policy.clock_skew)), now);
        house::prepare_today(&mut admission);
        house.let_all_tags_in(&mut admission)?;

        let control = match passed.control {
            Some(socket) => Control::adopt(socket),
            None => Control::listen(&control),
        }
        .map_err(|error| StartError::Control { path: control, error })?;
        let mut listener = match passed.udp {
            sockets if sockets.is_empty() => Listener::bind(listen.addresses())?,
            sockets => Listener::adopt(sockets, listen.addresses())?,
        };
        let addresses: Vec<String> = listen.addresses().iter().map(ToString::to_string).collect();
        info!(
            clients = count,
            services = policy.services.len(),
            event = "started",
            "listening on udp {}",
            addresses.join(", ")
        );
        listener.keep_ways(policy.reply).map_err(system("replies (reply.enabled)"))?;
        if listener.dropped_before() > 0 {
            warn!(
                event = "datagrams-lost",
                dropped = listener.dropped_before(),
                "datagrams were lost before this start, since systemd opened the socket: its receive buffer was full"
            );
        }
        let (reload, telemetry) = (Reload::new(roster, in_force, now), Telemetry::default());
        Ok(Self {
            admission,
            listener,
            house,
            clock: ClockWatch::start().map_err(system("a watch on the clock"))?,
            reload,
            control,
            telemetry,
            counts: Counts::default(),
            clients: AllClients::new(if metrics.listen.is_some() { metrics.per_client } else { 0 }),
            metrics: Metrics::start(&metrics).map_err(StartError::Metrics)?,
            since: now,
            supervisor: Supervisor::of_environment().map_err(system("a timer"))?,
        })
    }

    /// Deals with one batch of datagrams after another, and keeps house between them, until a signal says
    /// to end: its name.
    async fn serve(mut self, signals: &mut Signals) -> &'static str {
        let mut due = Instant::now();
        self.supervisor.is_ready();
        self.tell_status();
        loop {
            if self.admission.kernel() == KernelState::InDoubt {
                due = due.min(Instant::now() + AFTER_A_DOUBT);
            }
            tokio::select! {
                // In this order, so that no flood keeps anything from being done.
                biased;
                asked = signals.next() => match asked {
                    Signalled::End(signal) => {
                        self.supervisor.ends();
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
                () = self.admission.firewall_mut().due() => {
                    mend(&mut self.admission, &mut self.house);
                    self.tell_status();
                    due = Instant::now();
                }
                // What follows is house.keep's, which looks at the clock first.
                () = self.clock.was_set() => due = Instant::now(),
                () = sleep_until(due) => {
                    due = Instant::now() + self.house.keep(&mut self.admission, &self.listener);
                    self.telemetry.sum_up();
                }
                read = self.reload.read() => {
                    self.reload.apply(read, &mut self.admission, &mut self.house);
                    if let Err(error) = self.listener.keep_ways(self.reload.replies()) {
                        error!(event = "replies-failing", "replies can't be sent: {error}");
                    }
                    self.supervisor.is_ready();
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
                        if self.listener.was_full() || self.telemetry.holds_back() {
                            due = due.min(Instant::now() + AFTER_A_BURST);
                        }
                    }
                    Err(error) => {
                        error!(event = "receive-failed", "can't receive: {error}");
                        sleep(AFTER_A_FAILED_RECEIVE).await;
                    }
                },
            }
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
        if let Request::Reload { .. } = asked.request {
            self.supervisor.reloads();
            return self.reload.begin(Some(asked));
        }
        let mut parts = self.parts();
        let reply = parts.answer(&asked.request, clock::now());
        let to_end = parts.to_end;
        telemetry::report_order(&asked.request, &reply);
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
            let grants = admission.grants().owners().filter(|(_, until)| uptime < **until).count();
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
        replies::send(self.admission.take_replies(), &self.listener, counts);
        accepted
    }
}

/// Answers when connections have been ended, with how many they were.
fn when_ended(asked: Asked, reply: Reply) -> impl FnOnce(Result<usize, String>) + Send {
    move |ended| asked.answer(reply.with_connections(ended))
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// The table, watched first and then made whole, and who keeps it so.
fn mender(config: &Config, path: &Path) -> Result<Mender, StartError> {
    let system = |what| move |error| StartError::System { what, error };
    let kernel = Kernel::open()?;
    let watch = Watch::start(kernel.port_id()).map_err(system("a watch on nftables"))?;
    let sweeper = Sweeper::start(plan::guarded(config)).map_err(system("a thread"))?;
    let ruleset = plan::ruleset(config, config.clients.len());
    let installed = install(&ruleset)?;
    let mender = Mender::new(kernel, ruleset, plan::newer(path), watch, sweeper);
    if installed == Installed::Now {
        mender.end_what_came_by_no_door();
    }
    Ok(mender)
}

/// Since when the table is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installed {
    Before,
    Now,
}

/// Makes sure that the table is in the kernel and follows the configuration.
fn install(ruleset: &Ruleset) -> Result<Installed, FirewallError> {
    match table::state(ruleset)? {
        TableState::Whole => return Ok(Installed::Before),
        TableState::Missing => {
            warn!(
                event = "table-missing",
                "table inet knockd was not there: every port that it guards was open until now"
            )
        }
        TableState::Changed(differences) if table::is_as_put_in()? => {
            let changed = differences.join("; ");
            info!(
                changed,
                event = "table-followed",
                "table inet knockd follows the configuration as it is now: {changed}"
            );
        }
        TableState::Changed(differences) => {
            let missing = differences.join("; ");
            warn!(missing, event = "table-changed", "table inet knockd is put right: {missing}")
        }
    }
    table::install(ruleset)?;
    Ok(Installed::Now)
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

fn report_restored(restored: &Restored) {
    let bound = restored.refused_up_to.map(telemetry::rfc3339).unwrap_or_default();
    match restored.seen {
        Condition::Intact => {
            info!(
                packets = restored.packets,
                event = "memory-restored",
                "the memory of accepted packets is whole"
            )
        }
        Condition::Missing => warn!(
            event = "memory-lost",
            "there is no memory of accepted packets: nothing stamped at or before {bound} is accepted"
        ),
        Condition::EarlierBoot => warn!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is from before a reboot and may not be whole: nothing stamped at or before {bound} is accepted"
        ),
        Condition::Damaged(damage) => error!(
            packets = restored.packets,
            event = "memory-lost",
            "the memory of accepted packets is damaged ({damage}): nothing stamped at or before {bound} is accepted"
        ),
    }
    lost_counters::report_file(restored.counters);
    if let Some(what) = lost(restored.grants) {
        error!(
            event = "state-lost",
            "the file of grants is {what}: grants that were live are over"
        );
    }
    if let Some(what) = lost(restored.bans) {
        error!(
            event = "state-lost",
            "the file of bans is {what}: sources that were banned no longer are"
        );
    }
    if restored.mended > 0 {
        warn!(
            changed = restored.mended,
            event = "kernel-settled",
            "doors and bans in the kernel were made to match the live grants and bans"
        );
    }
    info!(
        grants = restored.live,
        bans = restored.banned,
        event = "restored",
        "live grants and bans taken up"
    );
}

fn lost(condition: FileCondition) -> Option<&'static str> {
    match condition {
        FileCondition::Sound => None,
        FileCondition::Damaged => Some("damaged"),
        FileCondition::Gone => Some("gone"),
    }
}
