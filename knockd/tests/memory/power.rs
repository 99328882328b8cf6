//! A disk that loses what was not synced when the power goes.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use knockd::journal::StateFile;

/// A file's content as of the last sync, and what was written since, each write with where it begins.
#[derive(Debug, Default)]
struct Content {
    synced: Vec<u8>,
    since: Vec<(u64, Vec<u8>)>,
}

/// What is on the disk for certain, by path, and what isn't.
#[derive(Clone, Debug, Default)]
pub(crate) struct Power(Arc<Mutex<HashMap<PathBuf, Content>>>);

impl Power {
    /// A new file, which takes this path when it is whole.
    pub(crate) fn file(&self, path: &Path, file: File) -> PowerFile {
        self.0.lock().unwrap().insert(path.to_owned(), Content::default());
        PowerFile { file, path: path.to_owned(), power: self.clone() }
    }

    /// The power goes: of what was not synced, those writes are on the disk that `kept` says, in turn.
    pub(crate) fn goes(&self, kept: &[bool]) {
        for (path, Content { synced, since }) in self.0.lock().unwrap().drain() {
            let mut content = synced;
            let kept = kept.iter().chain(std::iter::repeat(&false));
            for ((offset, bytes), _) in since.iter().zip(kept).filter(|(_, kept)| **kept) {
                let start = usize::try_from(*offset).unwrap();
                content.resize(content.len().max(start + bytes.len()), 0);
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            fs::write(path, content).unwrap();
        }
    }

    /// Everything is on the disk: somebody has copied it there.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[derive(Debug)]
pub(crate) struct PowerFile {
    file: File,
    path: PathBuf,
    power: Power,
}

impl FileExt for PowerFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut all = self.power.0.lock().unwrap();
        all.entry(self.path.clone()).or_default().since.push((offset, bytes.to_vec()));
        self.file.write_at(bytes, offset)
    }
}

impl StateFile for PowerFile {
    fn sync(&self) -> io::Result<()> {
        let length = usize::try_from(self.file.metadata()?.len()).unwrap();
        let mut synced = vec![0; length];
        self.file.read_exact_at(&mut synced, 0)?;
        let content = Content { synced, since: Vec::new() };
        self.power.0.lock().unwrap().insert(self.path.clone(), content);
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }
}
