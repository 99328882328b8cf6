//! The configuration as a whole: what is sound, every mistake, and what never gets into a message.

mod derived;
mod examples;
mod mistakes;
mod permissions;
mod secrecy;
mod sound;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use super::{Environment, Located, Mistakes, load_located};

/// Two keys of 32 different bytes.
pub(crate) const KEYS: [&str; 2] = [
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=",
];

/// The shortest sound main file.
pub(crate) const MAIN: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";

/// A folder with a configuration in it, which goes away at the end of a test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// With this main file, and no clients.
    pub(crate) fn new(main: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.clients_dir()).unwrap();
        folder.write("knockd.toml", main);
        folder
    }

    /// With this main file and these clients.
    pub(crate) fn with_clients(main: &str, clients: &str) -> Self {
        let folder = Self::new(main);
        folder.write("clients.d/clients.toml", clients);
        folder
    }

    /// Puts a file there that only its owner can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    pub(crate) fn main(&self) -> PathBuf {
        self.0.path().join("knockd.toml")
    }

    pub(crate) fn clients_dir(&self) -> PathBuf {
        self.0.path().join("clients.d")
    }

    pub(crate) fn load(&self) -> Result<Located, Mistakes> {
        load_located(&self.main(), &Environment::default())
    }

    /// The mistakes, as `FILE:LINE: what; instead` with the file's name alone.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        match self.load() {
            Ok(_) => Vec::new(),
            Err(mistakes) => {
                mistakes.iter().map(|mistake| mistake.to_string().replace(&folder, "")).collect()
            }
        }
    }
}

/// An entry of a client with this name and key that may open mqtts, and these lines.
pub(crate) fn client(name: &str, key: &str, more: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n{more}\n")
}

#[test]
fn the_test_folder_is_sound() {
    assert_eq!(Folder::new(MAIN).mistakes(), [""; 0]);
}
