//! The examples of provisioning a device do what they say.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use e2e::door::{MQTTS, broker4, write_private};
use e2e::{Door, Echo, Settings, State, World, binaries};

fn example(name: &str) -> String {
    binaries::repository().join("config/examples").join(name).display().to_string()
}

#[test]
fn the_shell_script_puts_a_profile_in_place_knocks_with_it_and_changes_nothing_the_second_time() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let options = ["--service", "mqtts"];
    let device = door.enrol_with("press-17", &options);
    let _daemon = door.ready();
    let knock = binaries::path("knock");
    let programs = Path::new(&knock).parent().expect("a folder").display().to_string();
    let etc = world.dir().join("etc-knock");
    let script = example("provision-device.sh");
    let provision = |profile: &str| {
        let environment = format!("PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin");
        let place = format!("KNOCK_ETC={}", etc.display());
        world.client().run(&["env", &environment, &place, "sh", &script, profile])
    };
    let profile = device.profile().display().to_string();
    provision(&profile).success().says("the profile \"broker\" is new").says("tcp/8883 open at");
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    let placed = etc.join("knock.toml");
    let mode = fs::metadata(&placed).expect("look").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read(&placed).expect("read"), fs::read(&profile).expect("read"));
    provision(&profile).success().says("the profile \"broker\" is in place");
    let left = fs::read_dir(&etc).expect("list").count();
    assert_eq!(left, 1, "nothing is left over");
    provision("/nowhere").exits(1).says("usage:");
    let empty = world.dir().join("empty.toml");
    write_private(&empty, "# nothing\n");
    provision(&empty.display().to_string()).exits(1).says("has no profile");
}

#[test]
fn the_profile_in_the_cloud_init_example_knocks_as_it_is_but_for_server_and_key() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let options = ["--service", "mqtts", "--address", "observed"];
    let device = door.enrol_with("press-17", &options);
    let _daemon = door.ready();
    let text = fs::read_to_string(example("cloud-init.yaml")).expect("read the example");
    assert!(text.starts_with("#cloud-config\n"));
    let (_, file) = text.split_once("path: /etc/knock/knock.toml").expect("a profile");
    assert!(file.trim_start().starts_with("owner: root:root\n    permissions: '0600'"));
    let (_, block) = file.split_once("content: |\n").expect("its content");
    let lines: Vec<_> = block.lines().map_while(|line| line.strip_prefix("      ")).collect();
    let profile = lines.join("\n").replace("broker.example.com", "broker");
    write_private(device.profile(), &profile.replace('…', &device.key()));
    device.knock(world.client(), &["-4", "broker", "--wait=20s"]).success();
}
