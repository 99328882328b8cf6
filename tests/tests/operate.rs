//! What an admin asks the running daemon for: bans, and how it is.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::door::{MQTTS, broker4, write_private};
use e2e::{Daemon, Device, Door, Echo, Settings, State, Talk, World};
use serde_json::Value;

fn running(world: &World) -> (Echo, Door<'_>, Device<'_>, Daemon) {
    let echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    (echo, door, device, daemon)
}

#[test]
fn an_admins_ban_ends_grants_refuses_knocks_and_is_lifted_by_unban() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    device.opens(&["--open-for", "600s"]);

    let banned = door.run(&["ban", &client, "--for", "1h", "--reason", "stolen", "--json"]);
    let banned = banned.success().json();
    assert_eq!((&banned["source"], &banned["grants-ended"]), (&client.clone().into(), &1.into()));
    assert!(door.grants().is_empty());
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["press-17", "reason=\"banned\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    let listed = door.run(&["bans", "--json"]).success().json();
    let row = &listed["bans"][0];
    assert_eq!((&row["source"], &row["by"]), (&client.clone().into(), &"admin".into()));
    assert_eq!(row["reason"], "stolen");
    assert!(row["remaining-s"].as_u64().is_some_and(|left| (3_500..=3_600).contains(&left)));
    let human = door.run(&["bans"]).success().stdout;
    assert!(human.contains(&client) && human.contains("stolen"), "{human}");

    let lifted = door.run(&["unban", &client, "--json"]).success().json();
    assert_eq!(lifted["changed"], true);
    let again = door.run(&["unban", &client, "--json"]).success().json();
    assert_eq!(again["changed"], false);
    device.opens(&[]);
}

#[test]
fn an_admins_ban_cuts_connections_that_do_not_come_back_when_it_is_lifted() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    device.opens(&["--open-for", "600s"]);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    door.run(&["ban", &client]).success();
    session.is_dead();
    daemon.tells(&["connections", "of a banned source"]);
    door.run(&["unban", &client]).success();
    session.is_dead();
    device.opens(&[]);
}

#[test]
fn an_admins_ban_survives_kill_9_and_the_kernel_holds_it_meanwhile() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    door.run(&["ban", &client]).success();
    daemon.kill9();
    let listed = |door: &Door<'_>| door.run(&["bans", "--json"]).success().json()["bans"].clone();
    assert_eq!(listed(&door)[0]["by"], "admin");
    let daemon = door.ready();
    assert_eq!(listed(&door)[0]["source"], client);
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["press-17", "reason=\"banned\""]);
    assert_eq!(door.run(&["unban", "all", "--json"]).success().json()["lifted"], 1);
    device.opens(&[]);
}

#[test]
fn the_hosts_own_address_can_not_be_banned_by_an_admin_either() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let output = door.run(&["ban", &world.broker().v4().to_string()]).exits(65);
    assert!(output.stderr.contains("own address"), "{output}");
    assert_eq!(door.run(&["bans"]).success().stdout, "nobody is banned\n");
}

#[test]
fn status_tells_what_was_decided_and_who_asked_for_what_it_may_not_have() {
    let world = World::new();
    let echo = Echo::start(world.broker(), &["tcp/8883", "tcp/22"]);
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"ssh\"\nports = [\"tcp/22\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&[]);
    for _ in 0..2 {
        device.knock(world.client(), &["-4", "--service", "ssh"]).success();
    }
    daemon.refuses("service-not-allowed", 2);
    daemon.tells(&["WARN", "press-17", "service-not-allowed", "ssh"]);
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!((&status["clients"], &status["grants"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["decisions"]["granted"], 1, "{status}");
    assert_eq!(status["decisions"]["refused"]["service-not-allowed"], 2, "{status}");
    assert_eq!(status["denied"][0]["client"], "press-17");
    assert_eq!(status["denied"][0]["count"], 2);
    let human = door.run(&["status"]).success().stdout;
    assert!(human.contains("press-17 asked 2 times for what it may not have"), "{human}");
    drop(echo);
}

#[test]
fn without_a_daemon_the_commands_that_need_one_say_so() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    for line in [&["status"][..], &["ban", "192.0.2.1"], &["unban", "all"]] {
        let output = door.run(line).exits(69);
        assert!(output.stderr.contains("no daemon listens"), "{output}");
    }
}

#[test]
fn the_control_socket_is_for_root_and_its_group_and_no_number_of_connections_stops_anything() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    let socket = door.control();
    for socket in [&socket, &readers(&door)] {
        let metadata = fs::metadata(socket).expect("a control socket");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    }
    // More than are served at once, none of which says anything.
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).expect("connect")).collect();
    device.opens(&[]);
    // Root's share is full, and the command tries again until the silent ones are hung up on.
    door.run(&["status"]).success();
    drop(silent);
}

/// Where readers ask.
fn readers(door: &Door<'_>) -> PathBuf {
    door.control().with_file_name("control-read.sock")
}

/// A request as it is written on a control socket, and the reply.
fn ask(socket: &Path, line: &str) -> Value {
    let mut connection = UnixStream::connect(socket).expect("connect");
    writeln!(connection, "{line}").expect("ask");
    let mut reply = String::new();
    BufReader::new(connection).read_line(&mut reply).expect("a reply");
    serde_json::from_str(&reply).expect("JSON")
}

#[test]
fn readers_see_how_things_are_and_change_nothing() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    let socket = readers(&door);
    for request in ["status", "grants", "bans"] {
        let reply = ask(&socket, &format!("{{\"command\":\"{request}\"}}"));
        assert!(reply.get(request).is_some(), "{reply}");
    }
    for order in [
        r#""ban","source":"192.0.2.7","for-ms":1000,"reason":"""#,
        r#""unban","source":null"#,
        r#""reload","cut":null"#,
        r#""resync","client":"press-17""#,
        r#""revoke","client":"press-17","address":null,"service":null,"cut":false"#,
    ] {
        let reply = ask(&socket, &format!("{{\"command\":{order}}}"));
        assert_eq!(reply["refused"]["kind"], "not-allowed", "{order}: {reply}");
    }
    daemon.tells(&["order-failed", "readers may look", "uid=0"]);
    assert_eq!(door.run(&["bans"]).success().stdout, "nobody is banned\n");
}

#[test]
fn names_on_the_control_socket_are_parsed_and_no_escape_reaches_a_terminal_or_a_line_of_the_log() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    let name = r"\u001b]0;pwned\u0007\u001b[2J\nfake line";
    for request in [
        format!(r#"{{"command":"resync","client":"{name}"}}"#),
        format!(r#"{{"command":"client","name":"{name}"}}"#),
        format!(r#"{{"command":"{name}"}}"#),
        format!(r#"{{"command":"unban","source":"{name}"}}"#),
        format!(r#"{{"command":"ban","source":"192.0.2.7","reason":"{name}"}}"#),
        format!(r#"{{"command":"revoke","client":"a","cut":false,"service":"{name}"}}"#),
    ] {
        let reply = ask(&door.control(), &request);
        assert_eq!(reply["refused"]["kind"], "request", "{request}: {reply}");
        assert!(!reply.to_string().contains("pwned"), "{reply}");
    }
    // A name that no request holds: that of a file which is wrong.
    let file = door.clients().join("\u{1b}]0;pwned\u{7}\nERROR fake line.toml");
    write_private(&file, "[[client]]\nname = 1\n");
    let reload = door.run(&["reload"]).exits(78);
    let status = door.run(&["status"]).success();
    daemon.tells(&["reload-refused", "pwned"]);
    for printed in [reload.stderr, status.stdout, daemon.log()] {
        assert!(printed.contains("pwned"), "{printed}");
        assert!(!printed.contains(['\u{1b}', '\u{7}']), "{printed}");
    }
    assert!(!daemon.log().lines().any(|line| line.starts_with("ERROR fake line")));
}

/// A program as another user than the daemon's, with this on its standard input, until it ends. Root alone can
/// make one: `None` for an ordinary user who leaves that out.
fn as_nobody(argv: &[&str], input: &str) -> Option<std::process::Output> {
    if !e2e::has_another_user() {
        return None;
    }
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start `setpriv` (package util-linux)");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("its input");
    Some(child.wait_with_output().expect("wait for a child"))
}

/// Lets everybody connect to a socket of the daemon, as a group may.
fn let_all_connect(world: &World, socket: &Path) {
    for folder in [world.dir(), socket.parent().expect("a folder")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a folder's mode");
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("a socket's mode");
}

/// Python that connects many times and says nothing, until its standard input ends; or that gives many orders.
const SILENT: &str = "import resource, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for _ in range(1500):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
print('held', flush=True)
sys.stdin.read()
";
const ORDERS: &str = "import json, socket, sys
for number in range(200):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    one.sendall(json.dumps({'command': 'resync', 'client': f'nobody-{number}'}).encode() + b'\\n')
    one.makefile().readline()
";

#[test]
fn while_another_user_holds_all_connections_that_it_can_root_bans_at_once() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    let socket = door.control();
    let_all_connect(&world, &socket);
    if !e2e::has_another_user() {
        return;
    }
    let mut silent = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .args(["/usr/bin/python3", "-c", SILENT])
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start `setpriv` (package util-linux)");
    let mut line = String::new();
    BufReader::new(silent.stdout.take().expect("piped")).read_line(&mut line).expect("its line");
    assert_eq!(line, "held\n");
    // The command gives up after ten seconds, and of one user's connections eight at a time are kept for five.
    door.run(&["ban", "192.0.2.7"]).success();
    device.opens(&[]);
    drop(silent.stdin.take());
    silent.wait().expect("wait for a child");
}

#[test]
fn orders_that_fail_fill_no_log_and_whoever_gave_one_is_told() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    let_all_connect(&world, &door.control());
    let socket = door.control();
    let socket = socket.to_str().expect("a path in UTF-8");
    let Some(orders) = as_nobody(&["/usr/bin/python3", "-c", ORDERS, socket], "") else { return };
    assert!(orders.status.success(), "{orders:?}");
    daemon.tells(&["order-failed", "nobody-0", "uid=65534"]);
    let told = daemon.log().matches("order-failed").count();
    assert!((10..=20).contains(&told), "{told} lines of 200");
    daemon.tells(&["more failed orders than are told one by one", "orders="]);
    // Root's are told all the same.
    door.run(&["client", "resync", "press-99"]).exits(66);
    daemon.tells(&["order-failed", "press-99", "uid=0"]);
}

#[test]
fn a_reader_who_may_not_connect_to_the_control_socket_asks_by_the_other_one() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let_all_connect(&world, &readers(&door));
    let (knockd, config) = (e2e::binaries::path("knockd"), door.config());
    let command = [knockd.as_str(), "--config", config.to_str().expect("a path in UTF-8")];
    let run = |args: &[&str]| as_nobody(&[&command, args].concat(), "");
    let Some(status) = run(&["status", "--json"]) else { return };
    assert!(status.status.success(), "{status:?}");
    let bans = run(&["bans"]).expect("root");
    assert_eq!(String::from_utf8_lossy(&bans.stdout), "nobody is banned\n", "{bans:?}");
    let ban = run(&["ban", "192.0.2.7"]).expect("root");
    assert_eq!(ban.status.code(), Some(77), "{ban:?}");
    assert!(String::from_utf8_lossy(&ban.stderr).contains("the group knockd"), "{ban:?}");
}

#[test]
fn what_the_daemons_user_puts_into_its_folder_hangs_no_command_of_root() {
    let world = World::new();
    let (_echo, door, _device, daemon) = running(&world);
    daemon.kill9();
    let put = |name: &str, what: &str| {
        let file = door.state().join(name);
        fs::remove_file(&file).ok();
        match what {
            "a pipe" => nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a pipe"),
            "a link" => std::os::unix::fs::symlink("/dev/zero", &file).expect("a link"),
            _ => fs::File::create(&file).and_then(|it| it.set_len(1 << 42)).expect("a file"),
        }
    };
    for what in ["a pipe", "a link", "larger than"] {
        for (name, command) in [("grants", "grants"), ("bans", "bans")] {
            put(name, what);
            let said = door.run(&[command]).exits(65).stderr;
            assert!(said.contains(what) && said.contains("state/"), "{said}");
        }
        put("lock", what);
        door.run(&["firewall", "remove"]).success();
        door.run(&["firewall", "install"]).success();
    }
    // Nothing is written through a link either, by a daemon that root runs.
    let file = world.dir().join("precious");
    fs::write(&file, "precious").expect("a file");
    fs::remove_file(door.state().join("lock")).expect("remove it");
    std::os::unix::fs::symlink(&file, door.state().join("lock")).expect("a link");
    let mut refused = door.spawn();
    assert_eq!(refused.exit_code(), Some(73), "{}", refused.log());
    assert_eq!(fs::read_to_string(&file).expect("read it"), "precious");
}
