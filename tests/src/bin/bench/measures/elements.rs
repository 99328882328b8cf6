//! Whether what is in the kernel's sets costs anything: time to put the table right, to start beside it, and to answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Realm, Secret, UnicastAddress};
use knockd::gate::{
    directory::Directory,
    grants::Owner,
    policy::{AddressPolicy, Client, ClientClock, Service, Standing},
};
use knockd::journal::{
    BootId, DaemonId, StateFolder, Writer,
    held::{HeldFile, StoredGrant},
};
use serde_json::{Value, json};

use crate::Bench;
use crate::door::{Daemon, Door, Settings};
use crate::fleet::address;
use crate::rig::Side;
use crate::stats::shown;

/// Doors that each client holds: less than a client may.
const EACH: u32 = 50;
/// Clients, always the same number, so that reading them takes the same time.
const CLIENTS: u32 = 20_000;
/// How long the grants last.
const LASTS: Duration = Duration::from_hours(12);
/// How long a repair and what follows may take before it counts as failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// What so many live grants cost.
struct Cost {
    grants: u32,
    /// From the start of the process to its listening; the kernel has none of the doors.
    filling: Duration,
    /// The same; the kernel has all of them.
    restarting: Duration,
    /// How long a rule in front of all others stood.
    rule: Duration,
    /// How long the table was away, and until all doors were back.
    table: Duration,
    doors: Duration,
    /// `knockd status`.
    status: Duration,
}

pub(crate) fn measure(bench: &mut Bench) {
    let numbers: &[u32] = if bench.quick { &[0, 10_000] } else { &[0, 10_000, 100_000, 1_000_000] };
    let mut costs = Vec::new();
    for grants in numbers {
        eprintln!("  {grants} doors");
        let cost = cost(bench, *grants);
        bench.report.row(
            &format!("{grants} doors open: started beside them; put right after a rule in front, after a flush; `status`"),
            &format!(
                "{}; {}, {}; {}",
                shown(cost.restarting),
                shown(cost.rule),
                shown(cost.table),
                shown(cost.status)
            ),
            "",
            "",
            &format!("all doors back {} after the flush", shown(cost.doors)),
        );
        costs.push(cost);
    }
    if let (Some(none), Some(most)) = (costs.first(), costs.last()) {
        bars(bench, none, most);
    }
    bench.report.raw("elements", Value::Array(costs.iter().map(Cost::json).collect()));
}

fn bars(bench: &mut Bench, none: &Cost, most: &Cost) {
    let with = format!("with {} doors", most.grants);
    let worst = most.rule.max(most.table);
    bench.report.bar(
        &format!("the table is put right {with}"),
        "within 50 ms",
        &shown(worst),
        worst <= Duration::from_millis(50),
    );
    bench.report.bar(
        &format!("live grants are back {with}"),
        "within a second for each 500,000",
        &shown(most.doors),
        most.doors.as_secs_f64() <= f64::from(most.grants) / 500_000.0 + 0.1,
    );
    let beside = most.restarting.saturating_sub(none.restarting);
    bench.report.bar(
        &format!("a restart {with}"),
        "within 5 s beside reading the clients",
        &shown(beside),
        beside <= Duration::from_secs(5),
    );
    bench.report.bar(
        &format!("`status` answers {with}"),
        "within 200 ms",
        &shown(most.status),
        most.status <= Duration::from_millis(200),
    );
}

fn cost(bench: &Bench, grants: u32) -> Cost {
    let tables = "[grant]\nmax = \"24h\"\n[prefilter]\nmode = \"on\"\n";
    let settings = Settings { devices: CLIENTS, tables, ..Settings::default() };
    let door = Door::new(&bench.programs.knockd, &settings);
    write_grants(&door.dir().join("state"), grants);
    let daemon = door.start();
    let filling = daemon.loading;
    daemon.process.end();
    let daemon = door.start();
    let restarting = daemon.loading;

    let rule = damaged(&daemon, "insert rule inet knockd gate accept");
    let start = Instant::now();
    let table = damaged(&daemon, "flush ruleset");
    if grants > 1_000 {
        daemon_tells(&daemon, "event=\"elements-restored\"", 0);
    }
    let doors = start.elapsed();
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            door.run(&["status"]).success();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    daemon.process.end();
    Cost { grants, filling, restarting, rule, table, doors, status: times[times.len() / 2] }
}

/// Damages the table; how long it stood so, as the daemon tells it.
fn damaged(daemon: &Daemon, script: &str) -> Duration {
    let before = daemon.process.log().matches(" open_ms=").count();
    Side::Broker.run("nft", &["-f", "-"], script).success();
    let log = daemon_tells(daemon, " open_ms=", before);
    let (_, open_ms) = log.rsplit_once(" open_ms=").expect("a repair");
    let open_ms = open_ms.split_whitespace().next().and_then(|ms| ms.parse().ok());
    Duration::from_millis(open_ms.expect("milliseconds"))
}

/// Waits until it has told this more often than so many times.
fn daemon_tells(daemon: &Daemon, text: &str, before: usize) -> String {
    let start = Instant::now();
    loop {
        let log = daemon.process.log();
        if log.matches(text).count() > before {
            return log;
        }
        assert!(start.elapsed() < PATIENCE, "{text} isn't told: {log}");
        sleep(Duration::from_millis(1));
    }
}

/// Writes the file of grants as an earlier run of the daemon would have left it.
fn write_grants(state: &Path, grants: u32) {
    let folder = StateFolder::open(state).expect("open the state folder");
    let writer = Writer {
        boot: BootId::current().expect("this boot's id"),
        daemon: DaemonId::from_random([7; 16]),
    };
    let (client, service) = ids();
    let until = knockd::clock::now().uptime + LASTS;
    let held = (0..grants).map(|number| {
        let ip: Ipv4Addr = address(number);
        let address = UnicastAddress::try_from(IpAddr::V4(ip)).expect("a client's address");
        let grant = StoredGrant {
            client: format!("d{:07}", number / EACH % CLIENTS).parse().expect("a name"),
            address,
            service: "mqtts".parse().expect("a service's name"),
            until,
        };
        (Owner { address, client, service }, grant)
    });
    HeldFile::create(&folder, writer, held).expect("write the file of grants");
}

/// Numbers of a client and a service: which ones doesn't matter, for the file has names.
fn ids() -> (knockd::gate::directory::ClientId, knockd::gate::directory::ServiceId) {
    let service = Service {
        name: "mqtts".parse().expect("a service's name"),
        ports: vec!["tcp/8883".parse().expect("a port")],
        to: Vec::new(),
    };
    let client = Client {
        name: "d0000000".parse().expect("a client's name"),
        secret: Secret::new(*b"not a secret, but for benchmarks").expect("not all the same"),
        services: ["mqtts".parse().expect("a service's name")].into(),
        from: Vec::new(),
        address: AddressPolicy::Strict,
        clock: ClientClock::Utc,
        expires: None,
        old_key: None,
        standing: Standing::Enabled,
    };
    let directory = Directory::new(vec![service], vec![client], &Realm::default());
    let clients: HashMap<&str, _> = directory.clients_by_name();
    let service = directory.service_named("mqtts".parse().expect("a name")).expect("the service");
    (clients["d0000000"], service)
}

impl Cost {
    fn json(&self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        json!({
            "grants": self.grants, "filling_ms": ms(self.filling), "restarting_ms": ms(self.restarting),
            "rule_ms": ms(self.rule), "table_ms": ms(self.table), "doors_ms": ms(self.doors),
            "status_ms": ms(self.status),
        })
    }
}
