//! `knockd run`: puts the rooms together, and leads packets through them until it is told to end.

use std::{io, path::PathBuf, thread, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    admission::Admission,
    clock::{self, watch::ClockWatch},
    config::{AUTO_LIMIT, Config, InterfaceName, Located, PrefilterMode, reload::Stamps},
    firewall::{
        FirewallError,
        kernel::{self, Kernel, TableState},
        ruleset::{Plan, Prefilter, Ruleset},
    },
    gate::{clock::Now, directory::Directory},
    house::{self, Housekeeping},
    journal::{BootId, DaemonId, StateError, StateFolder, Writer, seen::Condition},
    listener::{ListenError, Listener},
    reload::Reload,
    restore::{GrantsCondition, RestoreError, Restored, restore},
    roster::Roster,
    tags::TagKeeper,
    telemetry::{self, Telemetry},
};

/// How long after a burst the kernel's drops are looked at.
const AFTER_A_BURST: Duration = Duration::from_secs(1);
/// How long the next packets wait after some of which none was accepted: under junk, waking for each costs
/// more than all the rest, and a knock among it is opened a little later.
const AFTER_JUNK: Duration = Duration::from_millis(3);
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
}

/// Runs until SIGTERM or SIGINT; the door then stays as it is. SIGHUP applies changed clients.
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
        // First of all, so that a signal during the start isn't lost.
        let mut signals = Signals::watch().map_err(system("signals"))?;
        let signal = Daemon::start(start)?.serve(&mut signals).await;
        info!("{signal}: ending; the table and its doors stay as they are");
        Ok(())
    })
}

/// The daemon at work.
struct Daemon {
    admission: Admission<Kernel>,
    listener: Listener,
    house: Housekeeping,
    clock: ClockWatch,
    reload: Reload,
    telemetry: Telemetry,
    /// Its lock is held for as long as packets are accepted.
    _folder: StateFolder,
}

impl Daemon {
    /// Takes everything up in the order in which it must stand: the lock, the table, the past, the tags,
    /// the socket.
    fn start(
        Start { located: Located { config, origins }, path, stamps }: Start,
    ) -> Result<Self, StartError> {
        let folder = StateFolder::open(&config.state)?;
        let system = |what| move |error| StartError::System { what, error };
        let writer = Writer {
            boot: BootId::current().map_err(system("/proc/sys/kernel/random/boot_id"))?,
            daemon: DaemonId::from_random(random().map_err(system("random bytes"))?),
        };
        install(&ruleset(&config))?;

        let Config { policy, clients, clients_dir, listen, prefilter, .. } = config;
        let count = clients.len();
        let filters = prefilter.filters(count);
        if !filters && prefilter.mode == PrefilterMode::Auto {
            warn!(
                clients = count,
                "the kernel doesn't filter by tags: with more than {AUTO_LIMIT} clients that would make every listing of the ruleset slow"
            );
        }
        let directory = Directory::new(policy.services.clone(), clients, &policy.realm);
        let services = policy.services.iter().map(|service| service.name).collect();
        let roster =
            Roster::new(clients_dir, services, policy.realm, &stamps, &origins, &directory);
        let now = clock::now();
        let (mut admission, restored) =
            restore(&policy, directory, &folder, writer, Kernel::open()?, now)?;
        report_restored(&restored);
        let mut house = Housekeeping::new(filters.then(|| TagKeeper::new(policy.clock_skew)), now);
        house::prepare_today(&mut admission);
        house.let_all_tags_in(&mut admission)?;

        let listener = Listener::bind(listen.addresses())?;
        let addresses: Vec<String> = listen.addresses().iter().map(ToString::to_string).collect();
        info!(
            clients = count,
            services = policy.services.len(),
            "listening on udp {}",
            addresses.join(", ")
        );
        let (reload, telemetry) =
            (Reload::new(roster, path, prefilter, filters), Telemetry::default());
        let clock = ClockWatch::start().map_err(system("a watch on the clock"))?;
        Ok(Self { admission, listener, house, clock, reload, telemetry, _folder: folder })
    }

    /// Deals with one batch of datagrams after another, and keeps house between them, until a signal says
    /// to end: its name.
    async fn serve(mut self, signals: &mut Signals) -> &'static str {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                // In this order, so that no flood keeps anything from being done.
                biased;
                asked = signals.next() => match asked {
                    Asked::End(signal) => return signal,
                    Asked::Reload => self.reload.begin(),
                },
                // What follows is house.keep's, which looks at the clock first.
                () = self.clock.was_set() => due = Instant::now(),
                () = sleep_until(due) => {
                    due = Instant::now() + self.house.keep(&mut self.admission, &self.listener);
                    self.telemetry.sum_up();
                }
                read = self.reload.read() => {
                    self.reload.apply(read, &mut self.admission, &mut self.house);
                    due = Instant::now();
                }
                received = self.listener.receive() => match received {
                    Ok(()) => {
                        let now = clock::now();
                        if self.house.look_at_clock(&mut self.admission, now).is_some() {
                            due = Instant::now();
                        }
                        if self.deal_with_batch(now) == 0 && !self.listener.was_full() {
                            // Not the runtime's sleep: its timer would be one more wakeup.
                            thread::sleep(AFTER_JUNK);
                        }
                        if self.listener.was_full() {
                            due = due.min(Instant::now() + AFTER_A_BURST);
                        }
                    }
                    Err(error) => {
                        error!("can't receive: {error}");
                        sleep(AFTER_A_FAILED_RECEIVE).await;
                    }
                },
            }
        }
    }

    /// Returns how many packets were accepted.
    fn deal_with_batch(&mut self, now: Now) -> usize {
        if self.admission.gate().lacks_tags_at(now.utc) {
            house::prepare_today(&mut self.admission);
        }
        let telemetry = &mut self.telemetry;
        self.admission.handle(self.listener.batch(), now, |outcome, source, gate| {
            telemetry.report(outcome, source, gate.directory(), now);
        })
    }
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// The table that follows from a configuration.
#[must_use]
pub fn ruleset(config: &Config) -> Ruleset {
    Ruleset::of(&Plan {
        knock_ports: &[config.listen.port().get()],
        prefilter: match config.prefilter.filters(config.clients.len()) {
            true => Prefilter::On {
                junk_budget: config.prefilter.junk_budget,
                clients: config.clients.len(),
            },
            false => Prefilter::Off,
        },
        services: &config.policy.services,
        allowed_interfaces: config.allow.interfaces.iter().map(InterfaceName::as_str).collect(),
        allowed_networks: &config.allow.networks,
        sessions: config.policy.grant.sessions,
    })
}

/// Makes sure that the table is in the kernel and follows the configuration.
fn install(ruleset: &Ruleset) -> Result<(), FirewallError> {
    match kernel::state(ruleset)? {
        TableState::Whole => return Ok(()),
        TableState::Missing => {
            warn!("table inet knockd was not there: every port that it guards was open until now")
        }
        TableState::Changed(differences) => {
            warn!("table inet knockd is put right: {}", differences.join("; "))
        }
    }
    kernel::install(ruleset)
}

fn report_restored(restored: &Restored) {
    let bound = restored.refused_up_to.map(telemetry::rfc3339).unwrap_or_default();
    match restored.seen {
        Condition::Intact => {
            info!(packets = restored.packets, "the memory of accepted packets is whole")
        }
        Condition::Missing => warn!(
            "there is no memory of accepted packets: nothing stamped at or before {bound} is accepted"
        ),
        Condition::EarlierBoot => warn!(
            packets = restored.packets,
            "the memory of accepted packets is from before a reboot and may not be whole: nothing stamped at or before {bound} is accepted"
        ),
        Condition::Damaged(damage) => error!(
            packets = restored.packets,
            "the memory of accepted packets is damaged ({damage}): nothing stamped at or before {bound} is accepted"
        ),
    }
    if restored.grants == GrantsCondition::Damaged {
        error!("the file of grants is damaged: grants that were live are over");
    }
    if restored.mended > 0 {
        warn!(doors = restored.mended, "doors in the kernel were made to match the live grants");
    }
    info!(grants = restored.live, "live grants taken up");
}

/// The signals that the daemon heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
enum Asked {
    /// To end; the name of the signal.
    End(&'static str),
    /// To apply changed clients.
    Reload,
}

impl Signals {
    fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
