//! What the daemon starts from, and what stands in its way.

use std::{
    io, mem,
    path::{Path, PathBuf},
};

use tracing::{error, info, warn};

use super::{Daemon, restored};
use crate::{
    activation::{Passed, PassedError},
    client_counts::AllClients,
    clock::{self, watch::ClockWatch},
    config::{
        AUTO_LIMIT, Config, Environment, Listen, Located, PrefilterMode,
        reload::{Places, Stamps},
    },
    control::{audit::Audit, server::Control},
    counts::Counts,
    firewall::{
        FirewallError,
        connections::Sweeper,
        kernel::Kernel,
        ruleset::Ruleset,
        table::{self, TableState},
        template::Template,
        watch::Watch,
    },
    gate::directory::Directory,
    house::{self, Housekeeping},
    journal::{BootId, DaemonId, Kept, StateError, StateFolder, VOLATILE, Writer},
    listener::{self, ListenError, Listener},
    lost_counters,
    mend::Mender,
    metrics::Metrics,
    plan,
    reload::Reload,
    replies::Ways,
    restore::{RestoreError, restore},
    roster::Roster,
    snapshot::SnapshotWatch,
    supervisor::Supervisor,
    tags::TagKeeper,
    telemetry::Telemetry,
};

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

impl Daemon {
    /// Takes everything up in the order in which it must stand: the lock, the watch, the table, the past, the
    /// tags, the socket.
    pub(super) fn start(
        Start { located: Located { mut config, origins }, path, stamps, passed }: Start,
    ) -> Result<Self, StartError> {
        let own_addresses = own_addresses(&config.listen, &passed);
        let listen_at = own_addresses.addresses();
        passed.check(listen_at, &config.control)?;
        let mut folder = state_folder(&config.state)?;
        // Where there can be none, that is told with what was taken up.
        StateFolder::open_twin(&config.state).into_iter().for_each(|twin| folder.set_twin(twin));
        let system = |what| move |error| StartError::System { what, error };
        let writer = Writer {
            boot: boot().map_err(system("random bytes"))?,
            daemon: DaemonId::from_random(random().map_err(system("random bytes"))?),
        };
        let mender = mender(&config, &path)?;
        let clients = mem::take(&mut config.clients);

        let in_force = config.clone();
        let Config { policy, clients_dir, prefilter, control, metrics, .. } = config;
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
        restored::report(&restored);
        lost_counters::report(&admission);
        if let Err(error) = admission.look_up_own_addresses(now) {
            warn!(
                event = "own-addresses-unknown",
                "this host's own addresses can't be read, and could be banned until they can: {error}"
            );
        }
        let (mut admission, disk) =
            admission.write_on_a_thread().map_err(system("a thread for the disk"))?;
        let mut house = Housekeeping::new(filters.then(|| TagKeeper::new(policy.clock_skew)), now);
        house::prepare_today(&mut admission);
        house.let_all_tags_in(&mut admission)?;

        let control = match passed.control {
            Some(socket) => Control::adopt(socket, passed.read)
                .map_err(|error| StartError::Control { path: control, error })?,
            None => Control::listen_when_possible(&control),
        };
        let mut listener = match passed.udp {
            sockets if sockets.is_empty() => Listener::bind(listen_at)?,
            sockets => Listener::adopt(sockets, listen_at)?,
        };
        let addresses: Vec<String> = listen_at.iter().map(ToString::to_string).collect();
        info!(
            clients = count,
            services = policy.services.len(),
            event = "started",
            "listening on udp {}",
            addresses.join(", ")
        );
        if let Err(error) = listener.keep_ways(policy.reply) {
            error!(event = "replies-failing", "replies can't be sent (reply.enabled): {error}");
        }
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
            disk,
            ways: Ways::default(),
            snapshots: SnapshotWatch::start(),
            clock: ClockWatch::start(),
            reload,
            control,
            audit: Audit::default(),
            telemetry,
            counts: Counts::default(),
            clients: AllClients::new(if metrics.listen.is_some() { metrics.per_client } else { 0 }),
            metrics: Metrics::start(&metrics),
            since: now,
            supervisor: Supervisor::of_environment().map_err(system("a timer"))?,
        })
    }
}

/// The boot that this is. Where that can't be told, one of a name of its own: what an earlier run left is then from
/// before a reboot, as far as anybody knows.
fn boot() -> io::Result<BootId> {
    match BootId::current() {
        Ok(boot) => Ok(boot),
        Err(error) => {
            error!(
                event = "boot-unknown",
                "/proc/sys/kernel/random/boot_id: {error}; each start counts as one after a reboot (KNOCKD_BOOT_ID)"
            );
            random().map(BootId::from_bytes)
        }
    }
}

/// Where to listen on this kernel: every address of a host without IPv6 is every IPv4 address. The default, which nobody
/// wrote down, is also content with a socket for these alone.
fn own_addresses(listen: &Listen, passed: &Passed) -> Listen {
    let Some(ipv4) = listen.every_ipv4() else { return listen.clone() };
    let is_passed = passed.is_bound_to(ipv4.addresses());
    let is_content = if passed.udp.is_empty() || !listen.is_default() {
        !listener::kernel_has_ipv6() && (passed.udp.is_empty() || is_passed)
    } else {
        is_passed
    };
    if is_content { ipv4 } else { listen.clone() }
}

/// The state folder, or until the next boot one below /run, if the disk can't be written: a host that can't keep
/// anything still opens its doors.
fn state_folder(path: &Path) -> Result<StateFolder, StateError> {
    let (folder, kept) = StateFolder::open_or(path, Path::new(VOLATILE))?;
    if let Kept::UntilReboot(error) = kept {
        error!(
            event = "state-volatile",
            "{error}. Until that is mended the state is in {VOLATILE}, and lost with a reboot: bans end then, and clients without a clock must be resynced"
        );
    }
    Ok(folder)
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// The table, watched first and then made whole, and who keeps it so.
fn mender(config: &Config, path: &Path) -> Result<Mender, StartError> {
    let system = |what| move |error| StartError::System { what, error };
    let mut kernel = Kernel::open()?;
    let watch = Watch::start(kernel.port_id()).map_err(system("a watch on nftables"))?;
    let sweeper = Sweeper::start(plan::guarded(config)).map_err(system("a thread"))?;
    let template = template(&plan::ruleset(config, config.clients.len()))?;
    let installed = install(&mut kernel, &template)?;
    let mender = Mender::new(kernel, template, plan::newer(path), watch, sweeper);
    if installed == Installed::Now {
        mender.end_what_came_by_no_door();
    }
    Ok(mender)
}

/// What this kernel makes of the ruleset. Where nft can't say it, and the table that is there has its names, hooks and
/// comments, that table is taken for right.
fn template(ruleset: &Ruleset) -> Result<Template, FirewallError> {
    let failed = match Template::of(ruleset) {
        Err(error @ FirewallError::Nft(_)) => error,
        result => return result,
    };
    let Some(found) = Template::of_what_is_there(ruleset)? else { return Err(failed) };
    error!(
        event = "nft-failed",
        "nft can't be run: {failed}; the table that is there is taken for right, for it has the comments of the one that ought to be there. A reload can't change it until nft is mended"
    );
    Ok(found)
}

/// Since when the table is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installed {
    Before,
    Now,
}

/// Makes sure that the table is in the kernel and follows the configuration.
fn install(kernel: &mut Kernel, template: &Template) -> Result<Installed, FirewallError> {
    match table::state(template)? {
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
    if let Some(lost) = table::install(kernel, template)?.told() {
        warn!(event = "elements-lost", "{lost}");
    }
    Ok(Installed::Now)
}
