//! Files that others can read or write.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::commands::Exit;

fn chmod(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_of_clients_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let folder = Folder::with_clients(MAIN, &client("a", KEYS[0], ""));
    let file = folder.clients_dir().join("clients.toml");
    for mode in [0o644, 0o660, 0o606] {
        chmod(&file, mode);
        let mistakes = folder.load().err().unwrap();
        assert_eq!(mistakes.exit(), Exit::NoPerm);
        assert!(mistakes.to_string().ends_with(&format!("run `chmod 0640 {}`", file.display())));
    }
    chmod(&file, 0o640);
    assert!(folder.load().is_ok());
}

#[test]
fn what_is_wrong_inside_such_a_file_is_told_in_the_same_run() {
    let folder = Folder::with_clients(MAIN, &client("A", KEYS[0], ""));
    chmod(&folder.clients_dir().join("clients.toml"), 0o644);
    let mistakes = folder.load().err().unwrap();
    assert_eq!((mistakes.iter().count(), mistakes.exit()), (2, Exit::Config));
}

#[test]
fn a_main_file_or_a_folder_of_clients_that_others_can_write_to_is_refused() {
    for (mode, refused) in [(0o755, false), (0o775, true), (0o757, true)] {
        let folder = Folder::new(MAIN);
        chmod(&folder.clients_dir(), mode);
        assert_eq!(folder.load().is_err(), refused, "{mode:o}");
    }
    for (mode, refused) in [(0o644, false), (0o664, true), (0o646, true)] {
        let folder = Folder::new(MAIN);
        chmod(&folder.main(), mode);
        assert_eq!(folder.load().is_err(), refused, "{mode:o}");
    }
}
