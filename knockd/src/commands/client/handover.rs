//! A device's `knock.toml` on its way to whoever sets the device up: printed, or into a file of its own.
//!
//! # Security considerations
//! - The file is its owner's alone from its first byte on, and takes its name when it is whole. One that is there
//!   already stays: the key in it may be told nowhere else.
//! - Where standard output goes to a file that others can read, that is told: a shell makes it so by default.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    commands::{Exit, Failure, Output},
    config::{Guard, exposure, quoted},
};

/// Where it goes.
pub(super) enum Handover {
    /// To standard output.
    Printed,
    /// To this file, which isn't there yet.
    File(PathBuf),
}

impl Handover {
    /// To the file that `--out` names, if it names one.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] if there is something of that name: nothing has been made then.
    pub(super) fn to(out: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = out else { return Ok(Self::Printed) };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::File(path.to_owned())),
            Err(error) => Err(cant_write(path, &error)),
            Ok(_) => {
                let message = format!(
                    "{} is there already, and may hold a key: name another with --out, or move it away first",
                    path.display()
                );
                Err(Failure::new(Exit::CantCreat, message))
            }
        }
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<String> {
        match self {
            Self::Printed => None,
            Self::File(path) => Some(path.display().to_string()),
        }
    }

    /// Hands it over. `answer` is what is printed.
    ///
    /// # Errors
    /// If it can't be written or printed: then nobody has it.
    pub(super) fn deliver(
        &self,
        profile: &str,
        answer: &Zeroizing<String>,
        output: &mut Output<'_>,
    ) -> io::Result<()> {
        if let Self::File(path) = self {
            write(path, profile)?;
            return output.deliver(answer).inspect_err(|_| drop(fs::remove_file(path)));
        }
        output.deliver(answer)?;
        let exposed = output.mode().and_then(|mode| exposure(Path::new(""), mode, Guard::Keys));
        if let Some((what, _)) = exposed {
            output.note(format!(
                "warning: what is printed has the device's key in it, and goes to a file: {what}. Run `chmod 0600` on it; \
                 --out FILE makes one for its owner alone"
            ));
        }
        Ok(())
    }

    /// Notes where it is.
    pub(super) fn note(&self, output: &mut Output<'_>) {
        if let Self::File(path) = self {
            output.note(format!("the device's knock.toml is {}", quoted(path)));
        }
    }
}

fn write(path: &Path, profile: &str) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For its owner alone, which is what the crate makes.
    let mut file = tempfile::Builder::new().prefix(".knock-").suffix(".new").tempfile_in(folder)?;
    file.write_all(profile.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

fn cant_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::CantCreat, format!("can't write {}: {error}", path.display()))
}
