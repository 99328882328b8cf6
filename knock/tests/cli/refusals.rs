//! Wrong input of every kind: its exit code, what it is told, and that nothing was sent.

use crate::support::{Device, Server};

#[test]
fn a_wrong_command_line_ends_with_64_says_what_is_right_and_sends_nothing() {
    let (device, server) = (Device::new(), Server::new());
    for (flags, parts) in [
        (&["--frob"][..], &["--frob"][..]),
        (&["one", "two"], &["two"]),
        (&["no such name"], &["a profile's name is"]),
        (&["--open-for", "30"], &["--open-for", "90s"]),
        (&["--open-for", "0s"], &["--open-for", "90s"]),
        (&["--open-for", "500ms"], &["whole seconds"]),
        (&["--service", "MQTT"], &["a-z"]),
        (&["--service", ""], &["--service"]),
        (&["--port", "8883"], &["tcp/8883"]),
        (&["--port", "tcp/0"], &["1 to 65535"]),
        (&["--wait=soon", "--port", "tcp/1"], &["90s"]),
        (&["--wait=0s", "--port", "tcp/1"], &["above 0"]),
        (&["--wait"], &["--port tcp/8883"]),
        (&["--server", "192.168.010.005"], &["write 192.168.10.5"]),
        (&["--server", "0x7f.1"], &["such as 192.0.2.7"]),
        (&["--address", "10.0.0.08"], &["write 10.0.0.8"]),
        (&["--notify", "open"], &["--keep"]),
        (&["--repeat", "0"], &["1 to 100"]),
        (&["--repeat", "101"], &["1 to 100"]),
        (&["--address", "127.0.0.1"], &["loopback"]),
        (&["--address", "everywhere"], &["auto, observed"]),
        (&["--server", "2001:db8::1"], &["brackets"]),
        (&["--server", "x:0"], &["1 to 65535"]),
        (&["--realm", "é"], &["--realm", "printable ASCII"]),
        (&["-4", "-6"], &["-4", "-6"]),
        (&["--close", "--wait"], &["--close"]),
        (&["--close", "--open-for", "1s"], &["--close"]),
        (&["--quiet", "--json"], &["--json"]),
    ] {
        let name = server.name();
        let mut line = vec!["--key-file", "key", "--address", "192.0.2.1"];
        for (flag, value) in [("--config", "empty.toml"), ("--server", name.as_str())] {
            if !flags.contains(&flag) {
                line.extend([flag, value]);
            }
        }
        if flags.contains(&"--address") {
            line.retain(|word| !["--address", "192.0.2.1"].contains(word));
        }
        line.extend(flags);
        let run = device.knock(&line).must_fail(64, parts);
        if !flags.contains(&"--json") {
            assert_eq!(run.stdout, "", "{run:?}");
        }
        server.must_have_received_nothing();
    }
}

#[test]
fn a_key_file_that_others_can_use_ends_with_77_and_the_chmod_that_mends_it() {
    let (device, server) = (Device::new(), Server::new());
    for mode in [0o644, 0o645, 0o620, 0o602, 0o660] {
        device.write("open-key", &device.key(), mode);
        let run = device.knock_at(&server, &["--address=observed"]);
        assert_eq!(run.code(), 0, "the sound key: {run:?}");
        server.receive();
        let name = server.name();
        let flags = ["--config=empty.toml", "--server", &name, "--key-file=open-key"];
        device.knock(&flags).must_fail(77, &["open-key holds a key", "chmod 600 open-key"]);
        server.must_have_received_nothing();
    }
}

#[test]
fn a_profile_with_a_key_that_others_can_read_ends_with_77_and_the_chmod_that_mends_it() {
    let (device, server) = (Device::new(), Server::new());
    let text = format!(
        "[a]\nserver = \"{}\"\nkey = \"{}\"\naddress = \"observed\"\n",
        server.name(),
        device.key()
    );
    device.write("knock.toml", &text, 0o644);
    device.knock(&["--config=knock.toml"]).must_fail(77, &["chmod 600 knock.toml"]);
    server.must_have_received_nothing();
    device.write("knock.toml", &text, 0o600);
    device.knock(&["--config=knock.toml"]).must_succeed();
    server.receive_request(&device.keys(""));
}

#[test]
fn a_bad_key_ends_with_78_and_its_file_and_line() {
    let (device, server) = (Device::new(), Server::new());
    let name = server.name();
    let key = device.key();
    for (text, parts) in [
        (String::new(), &["bad:1: the key is 0 bytes long", "knockd client"][..]),
        (key.trim_end_matches('=').to_owned(), &["bad:1: the key isn't base64", "knockd client"]),
        (format!("{key}\n{key}\n"), &["bad:2: "]),
        ("c2hvcnQ=\n".to_owned(), &["bad:1: the key is 5 bytes long and must be 32"]),
        (format!("{}=\n", "A".repeat(43)), &["bad:1: all bytes of the key are the same"]),
        ("a passphrase\n".to_owned(), &["bad:1: the key isn't base64"]),
    ] {
        device.write("bad", &text, 0o600);
        let flags = ["--config=empty.toml", "--key-file=bad", "--server", &name];
        device.knock(&flags).must_fail(78, parts);
        if text.lines().count() == 1 {
            let profile = format!("[a]\n\nkey = \"{}\"\n", text.trim_end());
            device.write("bad.toml", &profile, 0o600);
            let place = ["bad.toml:3: "];
            device.knock(&["--config=bad.toml", "--server", &name]).must_fail(78, &place);
        }
        server.must_have_received_nothing();
    }
}

#[test]
fn a_key_where_the_name_of_its_file_belongs_is_refused_without_showing_it() {
    let (device, server) = (Device::new(), Server::new());
    let (name, key) = (server.name(), device.key());
    let flags = ["--config=empty.toml", "--server", &name, "--key-file", &key];
    device.knock(&flags).must_fail(78, &["--key-file holds a key"]);
    let profile = format!("[a]\nkey-file = \"{key}\"\n");
    device.write("knock.toml", &profile, 0o600);
    device.knock(&["--config=knock.toml", "--server", &name]).must_fail(78, &["key-file"]);
    let mut command = device.command(&["--config=empty.toml", "--server", &name]);
    command.env("KNOCK_KEY_FILE", &key);
    let run = device.finish(command.spawn().unwrap(), "");
    run.must_fail(78, &["KNOCK_KEY_FILE holds a key"]);
    server.must_have_received_nothing();
}

#[test]
fn a_bad_profile_ends_with_78_its_line_and_never_the_line_itself() {
    let device = Device::new();
    let key = device.key();
    for (text, parts) in [
        (format!("key = \"{key}\"\n"), &["knock.toml:1: this stands outside of any profile"][..]),
        (format!("[a]\nkey = {key}\n"), &["knock.toml:2: this isn't TOML"]),
        (format!("[a]\nkey = \"{key}\n"), &["knock.toml:2: this isn't TOML"]),
        (format!("[a]\nserver = \"{key}\"\n"), &["knock.toml:2: server: "]),
        (format!("[a]\n{key}\n"), &["knock.toml:2: "]),
        (
            "[a]\nsever = \"x\"\n".to_owned(),
            &["knock.toml:2: unknown key \"sever\"", "server, key"],
        ),
        ("[a]\nport = 8883\n".to_owned(), &["knock.toml:2: port", "in quotes"]),
    ] {
        device.write("knock.toml", &text, 0o600);
        device.knock(&["--config=knock.toml"]).must_fail(78, parts);
    }
}

#[test]
fn what_is_missing_ends_with_78_and_says_where_it_belongs() {
    let device = Device::new();
    device.write("knock.toml", "[a]\nservice = \"mqtts\"\n", 0o600);
    let server = ["profile \"a\" has no server", "--server"];
    device.knock(&["--config=knock.toml"]).must_fail(78, &server);
    let key = ["profile \"a\" has no key", "--key-file"];
    device.knock(&["--config=knock.toml", "--server=127.0.0.1"]).must_fail(78, &key);
    let profile = ["no profile \"b\" in knock.toml", "there are: a"];
    device.knock(&["--config=knock.toml", "b"]).must_fail(78, &profile);
    device.knock(&["--config=none.toml"]).must_fail(78, &["none.toml", "knockd client add"]);
    device.knock(&["nosuch"]).must_fail(78, &["/etc/knock/knock.toml", ".config/knock/knock.toml"]);
    let none = ["--config=empty.toml", "--server=127.0.0.1", "--key-file=none"];
    device.knock(&none).must_fail(78, &["none: there is no such file"]);
}

#[test]
fn a_name_without_an_address_ends_with_68() {
    let device = Device::new();
    // RFC 6761, section 6.4: no name under "invalid" ever exists.
    let flags = ["--config=empty.toml", "--key-file=key", "--server=broker.invalid"];
    device.knock(&flags).must_fail(68, &["broker.invalid has no address"]);
}

#[test]
fn an_address_of_another_family_than_the_servers_ends_with_68() {
    let (device, server) = (Device::new(), Server::new());
    let flags = ["--address", "2001:db8::1"];
    device.knock_at(&server, &flags).must_fail(68, &["2001:db8::1", "same family"]);
    server.must_have_received_nothing();
}

#[test]
fn a_local_address_that_no_client_can_have_ends_with_69_and_names_the_way_out() {
    let (device, server) = (Device::new(), Server::new());
    let parts = ["127.0.0.1, a loopback address", "--address"];
    device.knock_at(&server, &[]).must_fail(69, &parts);
    server.must_have_received_nothing();
}
