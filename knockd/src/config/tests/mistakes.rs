//! Every mistake, its line, and what is said of it.

use super::*;
use crate::commands::Exit;

/// Loads `text` before or behind the shortest main file; expects one mistake at this line that says both.
#[track_caller]
fn assert_main(text: &str, line: u32, what: &str, instead: &str) {
    let is_top_level = !text.trim_start().starts_with('[');
    let whole = if is_top_level { format!("{text}\n{MAIN}") } else { format!("{MAIN}{text}") };
    let line = if is_top_level { line } else { line + 3 };
    assert_one(&Folder::new(&whole).mistakes(), "knockd.toml", line, what, instead);
}

#[track_caller]
fn assert_one(mistakes: &[String], file: &str, line: u32, what: &str, instead: &str) {
    let [mistake] = mistakes else { panic!("not one mistake: {mistakes:#?}") };
    assert!(mistake.starts_with(&format!("{file}:{line}: ")), "not line {line}: {mistake}");
    let (said, advice) = mistake.split_once("; ").unwrap();
    assert!(said.contains(what), "{what:?} isn't said: {mistake}");
    assert!(mistake.contains(instead), "{instead:?} isn't said: {mistake}");
    let verb = advice.split(' ').next().unwrap();
    assert!(["write", "leave", "give", "make"].contains(&verb), "no advice: {mistake}");
}

const UNTIL: &str = "old-key-until = 2027-12-31T00:00:00Z";

#[test]
fn each_mistake_of_the_main_file_is_told_with_its_line_and_what_to_write() {
    for (text, line, what, instead) in [
        // The form of the file.
        ("realm = \"a", 1, "this isn't TOML", "toml.io"),
        ("realm = \"a\"\nrealm = \"b\"", 2, "this isn't TOML: duplicate key", "toml.io"),
        ("liste = [\"[::]:1\"]", 1, "liste is no key at top level", "write listen"),
        ("clock_skew = \"30s\"", 1, "clock_skew is no key", "write clock-skew"),
        ("colour = 1", 1, "an unknown key at top level", "listen, "),
        ("[reply]\nenabled = \"yes\"", 2, "not true or false", "enabled = true"),
        ("[grant]\nopen-fro = \"1s\"", 2, "open-fro is no key in grant", "write open-for"),
        ("grant = 1", 1, "grant is a whole number", "[grant]"),
        // Where to listen.
        ("listen = \"[::]:62201\"", 1, "listen is a text, not a list", "[\"[::]:62201\"]"),
        ("listen = []", 1, "listen is empty", "[::]:62201"),
        ("listen = [1]", 1, "listen has a whole number in it", "[::]:62201"),
        ("listen = [\"::\"]", 1, "isn't an address with a port", "[::]:62201"),
        ("listen = [\"0.0.0.0:0\"]", 1, "0 is no port", "62201"),
        ("listen = [\"0.0.0.0:1\",\n\"[::]:2\"]", 2, "the ports 1 and 2", "one port"),
        ("listen = [\"[::]:1\",\n\"[::]:1\"]", 2, "[::]:1 twice", "once"),
        ("listen = [\"224.0.0.1:1\"]", 1, "a multicast address", "of this host"),
        // Paths.
        ("state = \"\"", 1, "state is empty", "/var/lib/knockd"),
        ("state = 1", 1, "state is a whole number, not a text", "/var/lib/knockd"),
        // Text and time.
        ("realm = \"plänt\"", 1, "realm is nothing", "64 printable ASCII"),
        ("clock-skew = 30", 1, "clock-skew is a whole number, not a text", "\"30s\""),
        ("clock-skew = \"30\"", 1, "clock-skew is no duration", "units ms, s, m, h and d"),
        ("clock-skew = \"13h\"", 1, "clock-skew is 13h", "from 1ms to 12h"),
        ("clock-skew = \"0s\"", 1, "clock-skew is 0s", "from 1ms to 12h"),
        // Services.
        ("[[service]]\nports = [\"tcp/1\"]", 1, "service.name is missing", "name = \"mqtts\""),
        ("[[service]]\nname = \"b\"", 1, "service.ports is missing", "[\"tcp/8883\"]"),
        ("[[service]]\nname = \"B b\"\nports = [\"tcp/1\"]", 2, "service.name", "1 to 16 of a-z"),
        ("[[service]]\nname = \"b\"\nports = []", 3, "service.ports is empty", "[\"tcp/8883\"]"),
        ("[[service]]\nname = \"b\"\nports = [\"8883\"]", 3, "that is no port", "tcp/8883"),
        ("[[service]]\nname = \"b\"\nports = [\"tcp/0\"]", 3, "that is no port", "1 to 65535"),
        ("[[service]]\nname = \"b\"\nports = [\"tcp/1\",\n\"tcp/1\"]", 4, "tcp/1 twice", "once"),
        ("[[service]]\nname = \"b\"\nports = [\"udp/62201\"]", 3, "knocks arrive", "another port"),
        ("[[service]]\nname = \"mqtts\"\nports = [\"tcp/1\"]", 2, "mqtts a second time", "own"),
        (
            "[[service]]\nname = \"b\"\nports = [\"tcp/1\", \"tcp/8883\"]\nto = [\"192.0.2.1\"]",
            3,
            "tcp/8883 in it, which mqtts has at",
            "same `to`",
        ),
        (
            "[[service]]\nname = \"b\"\nports = [\"tcp/1\"]\nto = [\"::1\"]",
            4,
            "::1 in it, a loopback address",
            "devices connect to",
        ),
        (
            "[[service]]\nname = \"b\"\nports = [\"tcp/1\"]\nto = [\"b\"]",
            4,
            "no address",
            "192.0.2.7",
        ),
        ("[[service]]\nname = \"b\"\nports = [\"tcp/1\"]\nport = 1", 4, "port is no key", "ports"),
        // Who needs no knock.
        ("[allow]\ninterfaces = [\"eth*\"]", 2, "no interface is called", "1 to 15"),
        ("[allow]\nnetworks = [\"10.0.0.1/8\"]", 2, "its first address", "\"10.0.0.0/8\""),
        ("[allow]\nnetworks = [\"10.0.0.1\"]", 2, "without the length", "\"10.0.0.1/32\""),
        ("[allow]\nnetworks = [\"ten\"]", 2, "that is no network", "192.0.2.0/24"),
        // Grants.
        ("[grant]\nopen-for = \"900ms\"", 2, "grant.open-for is 900ms", "30s"),
        ("[grant]\nopen-for = \"2h\"", 2, "longer than grant.max, 1h", "at most open-for = \"1h\""),
        ("[grant]\nmax = \"31d\"", 2, "grant.max is 31d", "1h"),
        ("[grant]\nmax = \"10s\"", 1, "grant.open-for is 30s, which is longer", "10s"),
        ("[grant]\nsessions = \"drop\"", 2, "neither keep nor cut", "\"keep\" or \"cut\""),
        // Bans.
        ("[ban]\nfailures = 0", 2, "not a number from 1 to 10000", "5"),
        ("[ban]\nwindow = \"500ms\"", 2, "ban.window is 500ms", "30m"),
        ("[ban]\nduration = \"366d\"", 2, "ban.duration is 366d", "6h"),
        ("[ban]\nscope = \"all\"", 2, "neither knock nor host", "\"knock\" or \"host\""),
        ("[ban]\nnever = [\"192.0.2.1\"]", 2, "without the length", "\"192.0.2.1/32\""),
        ("[ban]\nfailure = 5", 2, "failure is no key in ban", "failures"),
        // The memory against replays.
        ("[replay]\ncapacity = 0", 2, "not a number from 1 to 16777216", "1048576"),
        ("[replay]\ncapacity = 16777217", 2, "not a number from 1 to 16777216", "1048576"),
        ("[replay]\ncapacity = -1", 2, "not a number from 1", "1048576"),
        ("[replay]\ncapacity = 1.5", 2, "a number with a point", "1048576"),
        ("[replay]\nper-client = 0", 2, "not a number from 1", "131072"),
        ("[replay]\ncapacity = 9\nper-client = 10", 3, "more than replay.capacity, 9", "= 9"),
    ] {
        assert_main(text, line, what, instead);
    }
}

#[test]
fn a_configuration_without_a_service_protects_nothing_and_is_refused() {
    let none = Folder::new("realm = \"x\"\n").mistakes();
    assert_one(&none, "knockd.toml", 1, "no service to protect", "[[service]]");
    let number = Folder::new("service = 1\n").mistakes();
    assert_one(&number, "knockd.toml", 1, "not a list of tables", "[[service]]");
    let empty = Folder::new("service = []\n").mistakes();
    assert_one(&empty, "knockd.toml", 1, "no service to protect", "[[service]]");
}

#[test]
fn each_mistake_of_a_client_is_told_with_its_line_and_what_to_write() {
    let [key, other] = KEYS;
    for (text, line, what, instead) in [
        (client("Press", key, ""), 2, "client.name is nothing", "1 to 64 of a-z"),
        (client("a", "", ""), 3, "client.key is empty", "knockd client add"),
        (
            client("a", &key.replacen('M', "é", 1), ""),
            3,
            "client.key is not base64",
            "44 characters",
        ),
        (client("a", &key[..8], ""), 3, "client.key is too short", "44 characters"),
        (client("a", &format!("{}=", "A".repeat(43)), ""), 3, "isn't random", "44 characters"),
        (client("a", key, "from = [\"10.3.0.1/16\"]"), 5, "first address", "\"10.3.0.0/16\""),
        (client("a", key, "from = \"10.3.0.0/16\""), 5, "not a list", "[\"10.3.0.0/16\"]"),
        (client("a", key, "address = \"any\""), 5, "neither strict nor observed", "\"strict\""),
        (client("a", key, "clock = \"local\""), 5, "neither utc nor counter", "\"counter\""),
        (client("a", key, "expires = 2027-12-31"), 5, "with a time and an offset", "T00:00:00Z"),
        (client("a", key, "expires = 2027-12-31T00:00:00"), 5, "an offset", "T00:00:00Z"),
        (client("a", key, "expires = \"2027-12-31\""), 5, "without quotes", "T00:00:00Z"),
        (client("a", key, "expires = 1969-12-31T00:00:00Z"), 5, "before 1970", "T00:00:00Z"),
        (client("a", key, "enabled = \"yes\""), 5, "not true or false", "enabled = true"),
        (client("a", key, &format!("old-key = \"x\"\n{UNTIL}")), 5, "too short", "44 characters"),
        (
            client("a", key, &format!("old-key = \"{key}\"\n{UNTIL}")),
            5,
            "same as client.key",
            "out",
        ),
        (
            client("a", key, &format!("old-key = \"{other}\"")),
            1,
            "old-key-until is missing",
            "T00:",
        ),
        (client("a", key, UNTIL), 1, "client.old-key is missing", "write old-key"),
        (client("a", key, "form = []"), 5, "form is no key in client", "write from"),
        (client("a", key, "").replace("mqtts", "http"), 4, "knockd.toml doesn't", "one of mqtts"),
        (client("a", key, "").replace("mqtts", "M q"), 4, "no service is called", "1 to 16"),
        (client("a", key, "").replace("\"mqtts\"", ""), 4, "is empty", "[\"mqtts\"]"),
        (
            client("a", key, "").replace("\"mqtts\"", "\"mqtts\", \"mqtts\""),
            4,
            "mqtts twice",
            "once",
        ),
        ("[[client]]\nname = \"a\"\nservices = [\"mqtts\"]".into(), 1, "key is missing", "44 char"),
        (
            format!("[[client]]\nkey = \"{key}\"\nservices = [\"mqtts\"]"),
            1,
            "name is missing",
            "name",
        ),
        (format!("[[client]]\nname = \"a\"\nkey = \"{key}\""), 1, "services is missing", "mqtts"),
        ("[client]\nname = \"a\"".into(), 1, "client is a table", "[[client]]"),
        ("[[clients]]\nname = \"a\"".into(), 1, "clients is no key", "write client"),
    ] {
        let mistakes = Folder::with_clients(MAIN, &text).mistakes();
        assert_one(&mistakes, "clients.d/clients.toml", line, what, instead);
    }
}

#[test]
fn two_clients_of_one_name_or_one_key_are_told_with_both_places() {
    let folder = Folder::with_clients(MAIN, &client("a", KEYS[0], ""));
    folder.write("clients.d/other.toml", &client("a", KEYS[1], ""));
    let first = folder.clients_dir().join("clients.toml");
    let at = format!("is a, as it is at {}:1", first.display())
        .replace(&format!("{}/", folder.main().parent().unwrap().display()), "");
    assert_one(&folder.mistakes(), "clients.d/other.toml", 2, &at, "a name of its own");

    folder.write("clients.d/other.toml", &client("b", KEYS[0], ""));
    let same = "the same as that of the client at clients.d/clients.toml:1";
    assert_one(&folder.mistakes(), "clients.d/other.toml", 3, same, "knockd client add");
    let old = format!("old-key = \"{}\"\n{UNTIL}", KEYS[0]);
    folder.write("clients.d/other.toml", &client("b", KEYS[1], &old));
    assert_one(&folder.mistakes(), "clients.d/other.toml", 5, same, "knockd client add");
}

#[test]
fn an_entry_that_is_wrong_elsewhere_still_counts_for_names_and_keys() {
    let text = client("a", KEYS[0], "enabled = 1") + &client("a", KEYS[0], "");
    let mistakes = Folder::with_clients(MAIN, &text).mistakes();
    let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["5", "7", "8"], "{mistakes:#?}");
}

#[test]
fn every_mistake_of_every_file_is_told_in_one_run() {
    let folder = Folder::new(
        "listne = []\nstate = 1\nclock-skew = \"x\"\n\
         [[service]]\nname = \"A\"\nports = [\"tcp/0\", \"tcp/70000\"]\n\
         [grant]\nmax = \"40d\"\nopen-for = 3\n[replay]\ncapacity = 0\nsize = 1\n",
    );
    folder.write("clients.d/a.toml", &client("A", "short", "form = []"));
    folder.write("clients.d/b.toml", "[[client]\n");
    folder.write("clients.d/c.toml", &client("c", KEYS[0], "expires = 1"));
    let mistakes = folder.mistakes();
    let places: Vec<_> =
        mistakes.iter().map(|mistake| mistake.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "clients.d/a.toml:2",
            "clients.d/a.toml:3",
            "clients.d/a.toml:5",
            "clients.d/b.toml:1",
            "clients.d/c.toml:5",
            "knockd.toml:1",
            "knockd.toml:2",
            "knockd.toml:3",
            "knockd.toml:5",
            "knockd.toml:6",
            "knockd.toml:6",
            "knockd.toml:8",
            "knockd.toml:9",
            "knockd.toml:11",
            "knockd.toml:12",
        ],
        "{mistakes:#?}"
    );
}

#[test]
fn a_main_file_that_is_not_toml_leaves_the_clients_checked() {
    let folder = Folder::with_clients("listen = [", &client("A", KEYS[0], ""));
    let mistakes = folder.mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
}

#[test]
fn a_file_that_is_not_there_is_another_exit_status_than_a_wrong_one() {
    let folder = Folder::new(MAIN);
    let nowhere = folder.main().with_file_name("nowhere.toml");
    let exit = |path| load_located(path, &Environment::default()).err().unwrap().exit();
    assert_eq!(exit(nowhere.as_path()), Exit::NoInput);
    folder.write("knockd.toml", "x = 1");
    assert_eq!(exit(folder.main().as_path()), Exit::Config);
}

#[test]
fn a_folder_of_clients_that_is_not_there_comes_with_the_command_that_makes_it() {
    let folder = Folder::new(MAIN);
    fs::remove_dir(folder.clients_dir()).unwrap();
    let mistakes = folder.mistakes();
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("doesn't exist; run `mkdir -m 0750 "), "{mistakes:?}");
}

#[test]
fn text_that_is_not_utf8_is_told_with_its_line() {
    let folder = Folder::new(MAIN);
    fs::write(folder.main(), b"realm = \"x\"\n# \xff\n").unwrap();
    assert_one(&folder.mistakes(), "knockd.toml", 2, "isn't UTF-8", "UTF-8");
}
