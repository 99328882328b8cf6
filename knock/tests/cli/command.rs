//! The command behind `--`, which takes the place of `knock`.

use std::{net::TcpListener, os::unix::process::ExitStatusExt as _};

use crate::support::{Device, Server};

#[test]
fn the_exit_status_is_the_commands() {
    let (device, server) = (Device::new(), Server::new());
    for status in [0, 7, 69] {
        let script = format!("exit {status}");
        let run = device.knock_at(&server, &["--address=observed", "--", "sh", "-c", &script]);
        assert_eq!(run.code(), status, "{run:?}");
        server.receive();
    }
}

#[test]
fn the_command_has_the_input_the_process_id_and_the_arguments_as_given() {
    let (device, server) = (Device::new(), Server::new());
    let script = "read line; echo \"$$ $line $1 $2\"";
    let line = ["--quiet", "--address=observed", "--", "sh", "-c", script, "sh", "--json", "a b"];
    let child = device.command_at(&server, &line).spawn().unwrap();
    let id = child.id();
    let run = device.finish(child, "hello\n").must_succeed();
    assert_eq!(run.stdout, format!("{id} hello --json a b\n"));
}

#[test]
fn a_signal_ends_the_command_as_if_it_had_been_started_alone() {
    let (device, server) = (Device::new(), Server::new());
    for signal in ["TERM", "KILL", "PIPE"] {
        let script = format!("kill -{signal} $$; exit 1");
        let run = device.knock_at(&server, &["--address=observed", "--", "sh", "-c", &script]);
        let number = match signal {
            "TERM" => 15,
            "KILL" => 9,
            _ => 13,
        };
        assert_eq!(run.status.signal(), Some(number), "{run:?}");
    }
}

#[test]
fn the_command_runs_after_the_packet_was_sent_and_after_the_port_opened() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port=tcp/{}", service.local_addr().unwrap().port());
    let line = ["--address=observed", "--wait", &port, "--", "echo", "ran"];
    let run = device.knock_at(&server, &line).must_succeed();
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{run:?}");
    assert!(lines[0].starts_with("sent to ") && lines[1].contains(" accepts at "), "{run:?}");
    assert_eq!(lines[2], "ran");
}

#[test]
fn the_command_does_not_run_if_the_port_did_not_open_or_nothing_was_sent() {
    let (device, server) = (Device::new(), Server::new());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let flag = format!("--port=tcp/{port}");
    let closed = ["--address=observed", "--wait=20ms", &flag, "--", "touch", "ran"];
    device.knock_at(&server, &closed).must_fail(69, &[]);
    server.receive();
    device.knock_at(&server, &["--", "touch", "ran"]).must_fail(69, &["loopback"]);
    device
        .knock_at(&server, &["--address=observed", "--dry-run", "--", "touch", "ran"])
        .must_succeed();
    server.must_have_received_nothing();
    assert!(!device.path("ran").exists());
}

#[test]
fn the_command_is_told_where_the_door_is_open() {
    let (device, server) = (Device::new(), Server::new());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let flag = format!("--port=tcp/{port}");
    let script = "echo $KNOCK_HOST $KNOCK_ADDRESS $KNOCK_PORT $1";
    let line = ["--address=observed", "--quiet", "--wait", &flag, "--", "sh", "-c", script, "sh"];
    let run = device.knock_at(&server, &[&line[..], &["{host}/{address}"]].concat());
    let run = run.must_succeed();
    assert_eq!(run.stdout, format!("127.0.0.1 127.0.0.1 {port} 127.0.0.1/127.0.0.1\n"));
}

#[test]
fn a_command_that_is_not_there_ends_with_127_and_one_that_cant_run_with_126() {
    let (device, server) = (Device::new(), Server::new());
    device.write("text", "no program", 0o600);
    for (command, code) in [("no-such-command", 127), ("./none", 127), ("./text", 126)] {
        let run = device.knock_at(&server, &["--address=observed", "--", command]);
        run.must_fail(code, &[command]);
        server.receive();
    }
}
