//! `knock keygen`: a key, random or derived of a master key, made without any server.
//!
//! # Security considerations
//! - A key is shown once, on standard output, or written to a file that is its owner's alone from the first byte on
//!   and that was not there before. A redirection is the shell's: what it makes is often everybody's to read, and a
//!   line on standard error says so.
//! - Whoever has the master key has the key of every client, past and future: PROTOCOL.md, "Derived keys".

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    num::NonZeroU32,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use common::{MasterKey, SECRET_LEN, Secret};
use data_encoding::BASE64;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{exit::Error, key, output};

/// How to make a key.
#[derive(Debug)]
pub(crate) struct KeygenArgs {
    /// The client whose key it is to be.
    pub(crate) name: Option<String>,
    /// What it is derived from.
    pub(crate) master: Option<PathBuf>,
    /// Which of the client's derived keys.
    pub(crate) generation: NonZeroU32,
    /// Where it is written to, instead of being shown.
    pub(crate) out: Option<PathBuf>,
    pub(crate) json: bool,
}

impl Default for KeygenArgs {
    fn default() -> Self {
        Self { name: None, master: None, generation: NonZeroU32::MIN, out: None, json: false }
    }
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Made<'a> {
    key: Option<&'a str>,
    file: Option<String>,
}

/// Makes it.
///
/// # Errors
/// A master key that is none, a name that is nobody's, a file that is there already.
pub(crate) fn keygen(args: &KeygenArgs) -> Result<(), Error> {
    let secret = match (&args.master, &args.name) {
        (Some(master), Some(name)) => {
            let master = MasterKey::new(&key::read(master, "--master")?);
            let secret = master.secret(name, args.generation);
            secret.map_err(|error| Error::Usage(error.to_string()))?
        }
        _ => random()?,
    };
    let text = Zeroizing::new(BASE64.encode(secret.expose()));
    if let Some(path) = &args.out {
        write(path, &text)?;
    }
    let file = args.out.as_ref().map(|path| path.display().to_string());
    if file.is_none() && is_file_of_others(io::stdout().as_fd()) {
        output::complain(EXPOSED);
    }
    if args.json {
        let made = Made { key: file.is_none().then_some(text.as_str()), file };
        let mut json = Zeroizing::new(serde_json::to_string(&made).map_err(io::Error::from)?);
        json.push('\n');
        return output::write(&json);
    }
    match file {
        Some(file) => output::write(&format!("the key is in {file}\n")),
        None => {
            let mut line = Zeroizing::new(String::with_capacity(text.len() + 1));
            line.push_str(&text);
            line.push('\n');
            output::write(&line)
        }
    }
}

const EXPOSED: &str = "knock: warning: standard output is a file that others can read, and the key is in it: make another \
one with --out FILE, which is its owner's alone, and delete this one\n";

/// Whether what is written here is a file that others than its owner can read or write.
fn is_file_of_others(out: BorrowedFd<'_>) -> bool {
    let metadata = out.try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o077 != 0)
}

fn random() -> Result<Secret, Error> {
    let mut bytes = Zeroizing::new([0; SECRET_LEN]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Error::System(format!("the system gives no randomness: {error}")))?;
    Secret::new(*bytes)
        .map_err(|_| Error::System("the system's random bytes aren't random".to_owned()))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    })
    .map_err(|error| {
        Error::CantCreate(format!(
            "{} can't be made: {error}: a key is never written over another; name a new file",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_redirection_into_a_file_that_others_can_read_is_noticed_and_no_other_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("key")).unwrap();
        for (mode, is_of_others) in [(0o644, true), (0o640, true), (0o622, true), (0o600, false)] {
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_file_of_others(file.as_fd()), is_of_others, "{mode:o}");
        }
        let (_reader, writer) = io::pipe().unwrap();
        assert!(!is_file_of_others(writer.as_fd()));
    }
}
