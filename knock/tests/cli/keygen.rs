//! `knock keygen`: random keys, and derived ones as another implementation derives them.

use std::os::unix::fs::PermissionsExt as _;

use data_encoding::{BASE64, HEXLOWER};

use crate::support::Device;

#[test]
fn a_random_key_is_32_bytes_and_another_each_time() {
    let device = Device::new();
    let make = || device.knock(&["keygen"]).must_succeed().stdout;
    let (one, other) = (make(), make());
    assert_eq!(BASE64.decode(one.trim().as_bytes()).unwrap().len(), 32);
    assert_ne!(one, other);
}

#[test]
fn a_derived_key_is_the_one_that_another_implementation_derives() {
    let vectors = include_str!("../../../common/vectors/derived-1.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let device = Device::new();
    let base64 = |hex: &serde_json::Value| {
        BASE64.encode(&HEXLOWER.decode(hex.as_str().unwrap().as_bytes()).unwrap())
    };
    for vector in vectors["vectors"].as_array().unwrap() {
        device.write("master", &base64(&vector["master"]), 0o600);
        let generation = format!("--generation={}", vector["generation"]);
        let name = vector["name"].as_str().unwrap();
        let made = device.knock(&["keygen", "--master=master", name, &generation]).must_succeed();
        assert_eq!(made.stdout.trim(), base64(&vector["secret"]), "{name}");
    }
}

#[test]
fn a_key_goes_into_a_new_file_of_its_owners_and_never_over_another() {
    let device = Device::new();
    let run = device.knock(&["keygen", "--out=new.key", "--json"]).must_succeed();
    assert_eq!(run.json(), serde_json::json!({"key": null, "file": "new.key"}));
    let before = std::fs::read_to_string(device.path("new.key")).unwrap();
    let mode = std::fs::metadata(device.path("new.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    device.knock(&["keygen", "--out=new.key"]).must_fail(73, &["name a new file"]);
    assert_eq!(std::fs::read_to_string(device.path("new.key")).unwrap(), before);
}

#[test]
fn a_master_key_that_others_can_read_and_a_name_that_is_nobodys_are_refused() {
    let device = Device::new();
    device.write("master", &device.key(), 0o644);
    device.knock(&["keygen", "--master=master", "press-17"]).must_fail(77, &["master"]);
    device.write("private", &device.key(), 0o600);
    device.knock(&["keygen", "--master=private", "Press 17"]).must_fail(64, &["name"]);
    device.knock(&["keygen", "press-17"]).must_fail(64, &["--master"]);
}

#[test]
fn a_redirection_into_a_file_that_others_can_read_is_told_on_standard_error() {
    let device = Device::new();
    for (mode, is_told) in [(0o644, true), (0o600, false)] {
        device.write("redirected", "", mode);
        let mut command = device.command(&["keygen"]);
        command.stdout(std::fs::File::create(device.path("redirected")).unwrap());
        let run = device.finish(command.spawn().unwrap(), "").must_succeed();
        assert_eq!(run.stderr.contains("--out FILE"), is_told, "{run:?}");
    }
}
