//! Devices' own systems as they are: storage that fails, units that may write nowhere, containers, files of others.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::net::UnixDatagram;

use e2e::door::{KNOCK_PORT, write_private};
use e2e::process::Process;
use e2e::{Device, Door, Echo, Host, Settings, World, binaries, until};

fn keep(device: &Device<'_>, host: Host<'_>, options: &[&str]) -> Process {
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let own = [knock.as_str(), "--config", &profile, "-4", "--keep"];
    host.spawn(&[&own[..], options].concat(), &[])
}

#[test]
fn a_running_keeper_goes_on_when_its_storage_fails_and_says_so() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let daemon = door.start();
    let device = door.enrol_with("sensor-3", &["--service", "mqtts", "--clock", "counter"]);
    daemon.reload();
    daemon.tells(&["1 added"]);
    let folder = world.dir().join("count");
    let file = folder.join("sensor-3");
    let name = file.display().to_string();
    let own = ["--counter-file", &name];
    device.knock(world.client(), &[&own[..], &["--set-counter", "0"]].concat()).success();
    let mut keeper = keep(&device, world.client(), &[&own[..], &["--open-for", "3s"]].concat());
    keeper.wait_for("kept open");
    assert_eq!(fs::read_to_string(&file).expect("read the counter"), "64\n", "taken ahead");
    fs::remove_dir_all(&folder).expect("lose the storage");
    fs::write(&folder, "").expect("put something in its place");
    keeper.wait_for("numbers that were taken ahead");
    let granted = daemon.granted();
    until("it is renewed 3 times", || daemon.granted() >= granted + 3);
    assert!(!daemon.has_told(&["counter-behind"]));
    keeper.kill9();
    // What was lost with the process is skipped.
    fs::remove_file(&folder).expect("mend the storage");
    fs::create_dir(&folder).expect("mend the storage");
    fs::write(&file, "64\n").expect("mend the storage");
    let granted = daemon.granted();
    device.knock(world.client(), &[&own[..], &["-4", "--wait=20s"]].concat()).success();
    until("its next number is above all", || daemon.granted() > granted);
}

#[test]
fn a_counter_where_a_unit_may_not_write_ends_for_good_and_names_the_settings() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("sensor-3");
    let folder = world.dir().join("etc");
    fs::create_dir(&folder).expect("make a folder");
    fs::write(folder.join("count"), "7\n").expect("write a counter");
    let (folder, profile) = (folder.display().to_string(), device.profile().display().to_string());
    // As ProtectSystem=strict does it: a mount of this process's own.
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let file = format!("--counter-file={folder}/count");
    for more in [&["-4"][..], &["-4", "--keep"]] {
        let knock = binaries::path("knock");
        let line = [
            "unshare", "--mount", "sh", "-c", script, "sh", &folder, &knock, "--config", &profile,
            &file,
        ];
        let told = world.client().run(&[&line[..], more].concat()).exits(77);
        assert!(told.stderr.contains("ReadWritePaths="), "{told}");
        assert!(told.stderr.contains("StateDirectory="), "{told}");
    }
}

#[test]
fn as_the_first_process_of_a_container_it_takes_up_all_that_end_and_keeps_the_commands_status() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let orphan = world.dir().join("orphan17");
    fs::copy("/bin/sleep", &orphan).expect("copy");
    let orphan = orphan.display().to_string();
    let script = "sh -c '\"$0\" 0.1 & \"$0\" 0.2 &' \"$1\"
        while grep -q '(orphan17) [^Z]' /proc/[0-9]*/stat 2>/dev/null; do sleep 0.05; done; sleep 0.2
        echo zombies: $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(orphan17) Z'); exit 7";
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let container = ["unshare", "--pid", "--fork", "--mount-proc"];
    let own = [knock.as_str(), "--config", &profile, "-4", "--keep", "--", "sh", "-c", script];
    let mut keeper =
        world.client().spawn(&[&container[..], &own, &["sh", orphan.as_str()]].concat(), &[]);
    assert_eq!(keeper.wait().code(), Some(7));
    assert!(keeper.stdout().contains("zombies: 0"), "{}", keeper.stdout());
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
}

#[test]
fn the_service_manager_hears_that_it_is_started_when_it_knocks_and_how_the_door_is() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    door.run(&["firewall", "install"]).success();
    let path = world.dir().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bind a socket");
    manager.set_nonblocking(true).expect("don't wait");
    let mut heard = String::new();
    let mut hear = || {
        let mut buffer = [0; 4096];
        while let Ok(length) = manager.recv(&mut buffer) {
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
            heard.push('\n');
        }
        heard.clone()
    };
    let path = path.display().to_string();
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let line = [knock.as_str(), "--config", &profile, "-4", "--keep", "--wait=500ms"];
    let mut keeper = world.client().spawn(&line, &[("NOTIFY_SOCKET", path.as_str())]);
    keeper.wait_for("knocking on until it opens");
    until("the state is told", || hear().contains("STATUS=no door opens: 10.77.0.1: no answer"));
    let told = hear();
    assert!(
        told.starts_with("STATUS=knocking at broker:62201, until it opens\nREADY=1\n"),
        "{told}"
    );
    let _daemon = door.ready();
    until("the door is told", || {
        hear().contains("STATUS=tcp/8883 open at 10.77.0.1, and kept open")
    });
    assert_eq!(hear().matches("READY=1").count(), 1);
}

#[test]
fn a_profile_that_others_can_write_is_not_followed() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let profile = world.dir().join("shared.toml");
    let key = world.dir().join("key");
    write_private(&key, &device.key());
    let text =
        format!("[broker]\nserver = \"broker:{KNOCK_PORT}\"\nkey-file = \"{}\"\n", key.display());
    write_private(&profile, &text);
    let (knock, path) = (binaries::path("knock"), profile.display().to_string());
    let run = |mode: &str| {
        world.client().run(&["chmod", mode, &path]).success();
        world.client().run(&[&knock, "--config", &path, "-4"])
    };
    run("0644").success();
    run("0666").exits(77).says("chmod go-w");
}
