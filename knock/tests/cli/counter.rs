//! A device without a clock: the number of the last packet, in its file.

use std::fs;

use common::{ClientKeys, Datagram, Day};

use crate::support::{Device, Server};

/// The number of a packet under the tag of a client without a clock.
fn number(datagram: &[u8], keys: &ClientKeys) -> u64 {
    let datagram = Datagram::parse(datagram).unwrap();
    assert_eq!(datagram.tag(), keys.tag(Day::COUNTER));
    datagram.open(keys, Day::COUNTER).unwrap().timestamp.as_millis()
}

/// A device with a profile that counts, its file named or not.
fn device(server: &Server, more: &str) -> Device {
    let device = Device::new();
    let profile = format!(
        "[broker]\nserver = \"{}\"\nkey = \"{}\"\naddress = \"observed\"\nclock = \"counter\"\n{more}",
        server.name(),
        device.key()
    );
    device.write(".config/knock/knock.toml", &profile, 0o600);
    device
}

const NAMED: &str = "counter-file = \"../../count/broker\"\n";

#[test]
fn each_packet_has_a_number_of_its_own_which_is_in_the_file_before_it_is_sent() {
    let server = Server::new();
    let device = device(&server, NAMED);
    device.knock(&["--set-counter", "6"]).must_succeed();
    let keys = device.keys("");
    device.knock(&["--repeat", "3"]).must_succeed();
    let numbers: Vec<u64> = (0..3).map(|_| number(&server.receive(), &keys)).collect();
    assert_eq!(numbers, [7, 8, 9]);
    let run = device.knock(&["--json"]).must_succeed();
    assert_eq!(run.json()["sent"][0]["timestamp"], 10);
    assert_eq!(run.json()["warnings"], serde_json::json!([]));
    assert_eq!(number(&server.receive(), &keys), 10);
    assert_eq!(fs::read_to_string(device.path("count/broker")).unwrap(), "10\n");
}

#[test]
fn a_lost_counter_sends_nothing_and_names_the_command_that_brings_the_device_back() {
    let server = Server::new();
    let device = device(&server, NAMED);
    device.knock(&[]).must_fail(78, &["count/broker", "isn't there", "knockd client resync NAME"]);
    device.write("count/broker", "garbage\n", 0o600);
    device.knock(&[]).must_fail(78, &["doesn't hold a number", "knockd client resync NAME"]);
    server.must_have_received_nothing();
    let run = device.knock(&["--set-counter", "1790000000000", "--json"]).must_succeed();
    assert_eq!(run.json()["counter"]["last"], 1_790_000_000_000_u64);
    device.knock(&[]).must_succeed();
    assert_eq!(number(&server.receive(), &device.keys("")), 1_790_000_000_001);
}

#[test]
fn a_dry_run_uses_no_number_up() {
    let server = Server::new();
    let device = device(&server, NAMED);
    device.knock(&["--set-counter", "0"]).must_succeed();
    for _ in 0..2 {
        let run = device.knock(&["--dry-run", "--json"]).must_succeed();
        assert_eq!(run.json()["unsent"][0]["timestamp"], 1);
        assert_eq!(run.json()["unsent"][0]["day"], u32::MAX);
    }
    server.must_have_received_nothing();
}

#[test]
fn flags_alone_are_enough_and_without_a_file_named_it_is_named_after_the_profile() {
    let server = Server::new();
    let device = device(&server, "");
    device.knock(&[]).must_fail(78, &["/var/lib/knock/broker.counter"]);
    let flags = ["--address", "observed", "--counter-file", "own"];
    let set = [&flags[..], &["--set-counter", "4"]].concat();
    device.knock_at(&server, &set).must_succeed();
    device.knock_at(&server, &flags).must_succeed();
    assert_eq!(number(&server.receive(), &device.keys("")), 5);
    let plain = ["--set-counter", "4"];
    device.knock_at(&server, &plain).must_fail(64, &["clock = \"counter\"", "--counter-file"]);
}

#[test]
fn a_file_that_can_not_be_written_sends_nothing() {
    let server = Server::new();
    let device = device(&server, NAMED);
    device.knock(&["--set-counter", "0"]).must_succeed();
    // Something is in the way of the new file, whoever runs this.
    fs::create_dir(device.path("count/broker.new")).unwrap();
    device.knock(&[]).must_fail(71, &["nothing was sent", "count/broker", "can't be written"]);
    server.must_have_received_nothing();
}

#[test]
fn keep_ends_where_only_a_person_can_help() {
    let server = Server::new();
    let device = device(&server, NAMED);
    device
        .knock(&["--keep"])
        .must_fail(78, &["count/broker", "isn't there", "knockd client resync"]);
    server.must_have_received_nothing();
}
