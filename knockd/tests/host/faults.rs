//! Faults on demand: in the n-th call to the kernel, or the n-th write to a file of the state folder, once or for
//! good; an error, or the end of the process.

use std::{
    any::Any,
    fs::File,
    io,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use knockd::journal::StateFile;

/// What a write(2) to a file can be cut off at: it ends between pages if the process is killed, or the disk is
/// full (mm/filemap.c, generic_perform_write).
const PAGE: u64 = 4096;

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Kernel,
    OwnAddresses,
    Seen,
    Counters,
    Grants,
    Bans,
}

/// What a fault does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has no effect, and fails with this error.
    Fails(i32),
    /// It has its effect, and yet an error is what comes back.
    AnswerIsLost,
    /// The process is killed before it.
    KillsBefore,
    /// The process is killed behind it.
    KillsBehind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    /// So many calls pass before.
    pub(crate) after: usize,
    /// Whether it stays from then on.
    pub(crate) lasts: bool,
    pub(crate) kind: Kind,
}

/// The faults that are to come, and where some have come.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<(Vec<Fault>, Vec<Fault>)>>);

struct Killed;

impl Faults {
    pub(crate) fn arm(&self, faults: &[Fault]) {
        *self.lock() = (faults.to_vec(), Vec::new());
    }

    /// Everything works again; returns the faults that have come.
    pub(crate) fn disarm(&self) -> Vec<Fault> {
        std::mem::take(&mut *self.lock()).1
    }

    /// Does this until a fault kills the process; whether it came to its end.
    pub(crate) fn survives(&self, act: impl FnOnce()) -> bool {
        let Err(end) = catch_unwind(AssertUnwindSafe(act)) else { return true };
        let end: Box<dyn Any + Send> = end;
        if !end.is::<Killed>() {
            resume_unwind(end);
        }
        false
    }

    pub(crate) fn around<T, E>(
        &self,
        place: Place,
        refuse: impl FnOnce(io::Error) -> E,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(fault) = self.next(place) else { return call() };
        // Nothing panics: this is how a process ends.
        let kill = || resume_unwind(Box::new(Killed));
        match fault.kind {
            Kind::Fails(errno) => Err(refuse(io::Error::from_raw_os_error(errno))),
            Kind::AnswerIsLost => {
                let _ = call()?;
                Err(refuse(io::Error::from_raw_os_error(nix::libc::ENOBUFS)))
            }
            Kind::KillsBefore => kill(),
            Kind::KillsBehind => {
                let _ = call();
                kill()
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<Fault>, Vec<Fault>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, place: Place) -> Option<Fault> {
        let (armed, met) = &mut *self.lock();
        let at = armed.iter_mut().position(|fault| {
            let is_due = fault.after == 0;
            if fault.place == place {
                fault.after = fault.after.saturating_sub(1);
            }
            fault.place == place && is_due
        })?;
        let fault = armed[at];
        if !fault.lasts {
            armed.remove(at);
        }
        met.push(fault);
        Some(fault)
    }
}

/// A file of the state folder.
pub(crate) struct Disk {
    file: File,
    place: Place,
    faults: Faults,
}

impl Disk {
    pub(crate) fn new(path: &Path, file: File, faults: &Faults) -> Self {
        let place = match path.file_name().and_then(|name| name.to_str()) {
            Some("seen") => Place::Seen,
            Some("counters") => Place::Counters,
            Some("grants") => Place::Grants,
            _ => Place::Bans,
        };
        Self { file, place, faults: faults.clone() }
    }
}

impl FileExt for Disk {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let room = usize::try_from(PAGE - offset % PAGE).unwrap();
        let within_the_page = &bytes[..bytes.len().min(room)];
        let write = || self.file.write_at(within_the_page, offset);
        self.faults.around(self.place, |error| error, write)
    }
}

impl StateFile for Disk {
    fn sync(&self) -> io::Result<()> {
        self.faults.around(self.place, |error| error, || Ok(()))
    }

    fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }
}
