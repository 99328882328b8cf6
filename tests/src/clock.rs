//! A clock that a test can set while a process runs by it: libfaketime(1), between that process and the
//! kernel. The machine's own clock stays as it is, and so does the uptime.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::World;

/// The clock on the wall of one process.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that shows the right time.
    pub fn new(world: &World) -> Self {
        let clock = Self { library: library(), file: world.dir().join("clock") };
        clock.show(0);
        clock
    }

    /// Sets it to so many seconds beyond the right time, or (below zero) before it.
    pub fn show(&self, beyond: i64) {
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, format!("{beyond:+}\n")).expect("write the clock's file");
        fs::rename(&fresh, &self.file).expect("put the clock's file in place");
    }

    /// What a process needs in its environment to go by it.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        let shown = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", shown(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", shown(&self.file)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Where Debian's package `faketime` has the library: in a folder named after the machine's kind.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("list /usr/lib").flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .expect("libfaketime (package faketime)")
}
