//! The metrics endpoint: what it tells is what happened, a real Prometheus and promtool take it, and nobody who reads
//! it, however, costs a knock anything.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use e2e::door::{KNOCK_PORT, broker4, write_private};
use e2e::{Door, Echo, Settings, World, binaries, until};

const TABLES: &str = "[prefilter]\njunk-budget = 1000000\n[metrics]\nlisten = \"127.0.0.1:9162\"\n";
const URL: &str = "http://127.0.0.1:9162/metrics";
const SERVICES: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";

fn door<'w>(world: &'w World, tables: &str) -> Door<'w> {
    Door::new(world, &Settings { skew: 1, services: SERVICES, tables })
}

/// The figures of a page, by name and labels.
fn parsed(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(figure).collect()
}

#[track_caller]
fn page(world: &World) -> String {
    world.broker().run(&["curl", "--silent", "--fail", "--max-time", "20", URL]).success().stdout
}

#[track_caller]
fn figures(world: &World) -> BTreeMap<String, f64> {
    parsed(&page(world))
}

#[test]
fn the_figures_are_those_of_the_status() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = door(&world, TABLES);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    let to = SocketAddr::new(broker4(&world), KNOCK_PORT).to_string();
    world.attacker().packet(&["udp", "--to", &to, "--size", "9", "--count", "6"]);
    daemon.tells(&["event=\"banned\""]);
    world.attacker().packet(&["udp", "--to", &to, "--size", "9", "--count", "3"]);
    world.broker().nft("add rule inet knockd gate counter accept");
    daemon.tells(&["event=\"table-repaired\""]);
    world.attacker().packet(&["udp", "--to", &to, "--size", "9", "--count", "5"]);

    let status = || door.run(&["status", "--json"]).success().json();
    until("the kernel has dropped all that a banned source sent", || {
        let status = status();
        let mut drops = status["kernel-drops"].as_array().expect("a list").iter();
        drops.any(|it| it["rule"] == "banned by its failures" && it["packets"] == 5)
    });
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let expected = |status: &serde_json::Value| {
        [
            ("knockd_clients", number(&status["clients"])),
            ("knockd_grants", number(&status["grants"])),
            ("knockd_bans{by=\"failures\"}", number(&status["bans-by-failures"])),
            ("knockd_bans{by=\"admin\"}", number(&status["bans-by-admin"])),
            ("knockd_bans_limit", number(&status["bans-limit"])),
            (
                "knockd_decisions_total{decision=\"granted\",reason=\"\"}",
                number(&status["decisions"]["granted"]),
            ),
            (
                "knockd_decisions_total{decision=\"refused\",reason=\"malformed\"}",
                number(&status["decisions"]["refused"]["malformed"]),
            ),
            ("knockd_sources_banned_total", number(&status["decisions"]["banned"])),
            ("knockd_table_repairs_total", number(&status["table"]["repairs"])),
            (
                "knockd_receive_buffer_dropped_packets_total",
                number(&status["receive-buffer-drops"]),
            ),
            ("knockd_replay_memory_packets", number(&status["replay-memory"]["used"])),
            ("knockd_replay_memory_packets_limit", number(&status["replay-memory"]["capacity"])),
            ("knockd_errors_total", number(&status["errors"])),
        ]
    };
    // The page may be a second older, and what it tells of changes.
    until("the page says what the status says", || {
        let (expected, told) = (expected(&status()), figures(&world));
        expected.iter().all(|(name, value)| told.get(*name) == Some(value))
    });
    let (status, told) = (status(), figures(&world));
    for drops in status["kernel-drops"].as_array().expect("a list") {
        let (chain, rule) = (drops["chain"].as_str().unwrap(), drops["rule"].as_str().unwrap());
        let name =
            format!("knockd_kernel_dropped_packets_total{{chain=\"{chain}\",rule=\"{rule}\"}}");
        assert_eq!(told.get(&name), Some(&number(&drops["packets"])), "{name}");
    }
    assert_eq!(told["knockd_table_whole"], 1.0);
    assert_eq!(told["knockd_decisions_total{decision=\"refused\",reason=\"replayed\"}"], 0.0);
    assert_eq!(
        told["knockd_client_decisions_total{client=\"press-17\",decision=\"granted\"}"],
        1.0
    );
    assert!(
        told["knockd_client_last_granted_timestamp_seconds{client=\"press-17\"}"]
            > told["knockd_start_time_seconds"]
    );
}

#[test]
fn however_many_clients_knock_no_more_have_figures_of_their_own_than_the_bound_says() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = door(&world, &format!("{TABLES}per-client = 2\n"));
    let devices: Vec<_> = (0..5).map(|number| door.enrol(&format!("lamp-{number}"))).collect();
    let daemon = door.ready();
    for device in &devices {
        device.opens(&[]);
    }
    // Whoever asks for a client's packets to be refused makes no line either.
    world.attacker().packet(&[
        "udp",
        "--to",
        &SocketAddr::new(broker4(&world), KNOCK_PORT).to_string(),
        "--size",
        "116",
    ]);
    assert_eq!(daemon.granted(), devices.len());
    let granted = |name: &str| {
        format!("knockd_client_decisions_total{{client=\"{name}\",decision=\"granted\"}}")
    };
    until("all are counted", || figures(&world).get(&granted("(other)")) == Some(&3.0));
    let told = figures(&world);
    let names: Vec<_> = told
        .keys()
        .filter(|name| name.contains("client_decisions") && name.contains("granted"))
        .collect();
    assert_eq!(names, [&granted("(other)"), &granted("lamp-0"), &granted("lamp-1")]);
    assert_eq!((told[&granted("lamp-0")], told[&granted("lamp-1")]), (1.0, 1.0));
}

#[test]
fn a_configuration_that_was_refused_shows_in_the_figures_until_it_is_mended() {
    let world = World::with(&["broker"]);
    let door = door(&world, TABLES);
    let _daemon = door.start();
    let refused = |is: f64| {
        until(&format!("it is refused: {is}"), || {
            figures(&world).get("knockd_configuration_refused") == Some(&is)
        });
    };
    refused(0.0);
    let wrong = door.clients().join("wrong.toml");
    write_private(&wrong, "[[client]");
    door.run(&["reload"]).exits(78);
    refused(1.0);
    fs::remove_file(&wrong).expect("remove a file");
    door.run(&["reload"]).success();
    refused(0.0);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_figures_and_the_alerts() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = door(&world, TABLES);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&[]);
    world.broker().run(&["mkdir", "-p", "/run/systemd/timesync"]).success();
    let accept = "Accept: text/plain;version=0.0.4";
    let plain = world
        .broker()
        .run(&["curl", "--silent", "--fail", "--include", "-H", accept, URL])
        .success()
        .stdout;
    let (head, body) = plain.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(
        body.contains("knockd_clock_synchronized 0")
            && body.contains("knockd_client_decisions_total"),
        "{body}"
    );
    let checked = world.broker().run_with(&["promtool", "check", "metrics"], &[], body).success();
    assert_eq!((checked.stdout.as_str(), checked.stderr.as_str()), ("", ""), "{checked}");

    let file = |name: &str| binaries::repository().join(name).to_str().expect("UTF-8").to_owned();
    world.broker().run(&["promtool", "check", "rules", &file("config/knockd.rules.yml")]).success();
    world
        .broker()
        .run(&["promtool", "test", "rules", &file("tests/rules/knockd.rules.test.yml")])
        .success();
    // No alert is about a figure that there isn't.
    let rules = fs::read_to_string(file("config/knockd.rules.yml")).expect("the rules");
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let named = rules
        .match_indices("knockd_")
        .map(|(at, _)| rules[at..].split(|c: char| !is_of_name(c)).next().expect("a name"));
    for name in named {
        assert!(body.contains(&format!("\n{name}")), "{name} isn't told");
    }
}

#[test]
fn a_real_prometheus_scrapes_the_figures_and_loads_the_alerts() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = door(&world, TABLES);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    let config = world.dir().join("prometheus.yml");
    let rules = binaries::repository().join("config/knockd.rules.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: knockd\n    static_configs: [{{ targets: [\"127.0.0.1:9162\"] }}]\n",
        rules.display()
    );
    fs::write(&config, text).expect("write a file");
    let (config, data) = (
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", world.dir().join("tsdb").display()),
    );
    let argv = ["prometheus", &config, &data, "--web.listen-address=127.0.0.1:9090"];
    let _prometheus = world.broker().spawn(&argv, &[]);
    let ask = |query: &str| {
        let query = format!("query={query}");
        let argv = [
            "curl",
            "--silent",
            "--max-time",
            "5",
            "--get",
            "http://127.0.0.1:9090/api/v1/query",
            "--data-urlencode",
            &query,
        ];
        let answer = world.broker().run(&argv);
        let answer: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let becomes = |query: &str, value: &str| {
        until(&format!("{query} is {value}"), || ask(query).as_deref() == Some(value));
    };
    becomes("up{job=\"knockd\"}", "1");
    becomes("knockd_decisions_total{decision=\"granted\"}", "1");
    becomes("knockd_grants", "1");
    becomes("knockd_table_whole", "1");
    becomes("count(knockd_build_info)", "1");
    let argv = ["curl", "--silent", "--fail", "http://127.0.0.1:9090/api/v1/rules"];
    let rules = world.broker().run(&argv).success().json();
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.iter().any(|rule| rule["name"] == "KnockdTableNotWhole"), "{rules:?}");
}

#[test]
fn nothing_but_a_get_of_metrics_is_answered_with_figures() {
    let world = World::with(&["broker"]);
    let door = door(&world, TABLES);
    let _daemon = door.start();
    let code = |more: &[&str]| {
        let argv = [
            &[
                "curl",
                "--silent",
                "--output",
                "/dev/null",
                "--max-time",
                "20",
                "--write-out",
                "%{http_code}",
            ],
            more,
        ]
        .concat();
        world.broker().run(&argv).stdout
    };
    assert_eq!(code(&[URL]), "200");
    assert_eq!(code(&["http://127.0.0.1:9162/"]), "404");
    assert_eq!(code(&["--request", "POST", "--data", "x", URL]), "405");
    // A header that is longer than what is read.
    let long = format!("X-Long: {}", "x".repeat(20_000));
    assert_ne!(code(&["-H", &long, URL]), "200");
    let page = page(&world);
    assert!(page.ends_with("# EOF\n"), "{page}");
}

/// Asks for figures at a socket; what is answered.
fn get(socket: &Path) -> String {
    let mut answer = String::new();
    let Ok(mut stream) = UnixStream::connect(socket) else { return answer };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn readers_that_say_nothing_or_too_little_and_readers_that_never_stop_delay_no_knock() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let socket = world.dir().join("metrics.sock");
    let door = door(&world, &format!("[metrics]\nlisten = \"unix:{}\"\n", socket.display()));
    let device = door.enrol("press-17");
    let daemon = door.ready();
    assert_eq!(fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o660);
    // More than are served at once, of which half have begun to speak.
    let silent: Vec<UnixStream> = (0..24)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).expect("connect");
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTT").expect("speak");
            }
            stream
        })
        .collect();
    device.opens(&["--open-for", "1s"]);
    drop(silent);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let greedy = scope.spawn(|| {
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                answers += usize::from(get(&socket).starts_with("HTTP/1.1 200"));
            }
            answers
        });
        for _ in 0..10 {
            device.opens(&[]);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(greedy.join().expect("a thread") > 0);
    });
    until("every knock was granted", || daemon.granted() == 11);
    assert!(get(&socket).contains("knockd_grants 1"));
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!(status["receive-buffer-drops"], 0);
}

#[test]
fn an_endpoint_that_other_hosts_could_reach_is_refused_with_what_to_write_instead() {
    let world = World::with(&["broker"]);
    let door = door(&world, "[metrics]\nlisten = \"0.0.0.0:9162\"\n");
    let refused = door.run(&["check"]).exits(78);
    assert!(refused.stderr.contains("no password before figures"), "{refused}");
    assert!(refused.stderr.contains("127.0.0.1:9162"), "{refused}");
    door.run(&["run"]).exits(78);
}
