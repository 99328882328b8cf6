//! Opening files that somebody with fewer rights may have put in their place: the state folder is the daemon's user's,
//! and root's commands read it.
//!
//! # Security considerations
//! - Nothing here waits (a pipe), leads elsewhere (a link) or has no end (a device, a file with holes): what isn't a
//!   plain file of a stated size at most is an error that says what it is.
//! - What is judged is the open file, and not the name.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{fcntl::OFlag, libc::ELOOP};

/// Whether a link is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is: in folders that root alone can write, and for files that an admin names.
    Followed,
    /// It is refused.
    Refused,
}

/// Why something that is there isn't opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPlain {
    /// A link.
    #[error("it is a link and no file: look where it leads, and remove it")]
    Link,
    /// A pipe, a socket, a device, a folder.
    #[error("it is {0} and no file: remove it")]
    Kind(&'static str),
    /// Too large.
    #[error("it is larger than {0} bytes, which no such file gets: move it away")]
    Size(u64),
}

impl NotPlain {
    /// The one that an error is, if it is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<NotPlain> for io::Error {
    fn from(error: NotPlain) -> Self {
        Self::new(ErrorKind::InvalidData, error)
    }
}

/// Opens a file as these options say, without waiting, if it is plain.
///
/// # Errors
/// [`NotPlain`], or what the kernel says.
pub fn open_with(
    options: &mut OpenOptions,
    path: &Path,
    links: Links,
) -> io::Result<(File, Metadata)> {
    let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if links == Links::Refused {
        flags |= OFlag::O_NOFOLLOW;
    }
    let file = options.custom_flags(flags.bits()).open(path).map_err(|error| {
        match (links, error.raw_os_error()) {
            (Links::Refused, Some(ELOOP)) => NotPlain::Link.into(),
            // A socket can't be opened at all.
            (_, Some(nix::libc::ENXIO)) => NotPlain::Kind("a socket or a pipe").into(),
            _ => error,
        }
    })?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok((file, metadata)),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () => "a device",
    };
    Err(NotPlain::Kind(what).into())
}

/// Opens a plain file of at most so many bytes to read it.
///
/// # Errors
/// [`NotPlain`], or what the kernel says.
pub fn open(path: &Path, max: u64, links: Links) -> io::Result<(File, Metadata)> {
    let (file, metadata) = open_with(OpenOptions::new().read(true), path, links)?;
    if metadata.len() > max {
        return Err(NotPlain::Size(max).into());
    }
    Ok((file, metadata))
}

/// Reads a plain file of at most so many bytes, which is no link.
///
/// # Errors
/// [`NotPlain`], or what the kernel says.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path, max, Links::Refused)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // It may grow meanwhile.
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_pipe_a_link_a_device_a_socket_a_folder_and_a_huge_file_are_told_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("plain"), "12345").unwrap();
        assert_eq!(read(&at("plain"), 5).unwrap(), b"12345");
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        symlink(at("plain"), at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
        for (name, why) in [
            ("pipe", NotPlain::Kind("a pipe")),
            ("link", NotPlain::Link),
            ("zero", NotPlain::Link),
            ("socket", NotPlain::Kind("a socket or a pipe")),
            (".", NotPlain::Kind("a folder")),
            ("huge", NotPlain::Size(5)),
        ] {
            let error = read(&at(name), 5).unwrap_err();
            assert_eq!(NotPlain::of(&error), Some(why), "{name}: {error}");
        }
        let device = read(Path::new("/dev/zero"), 5).unwrap_err();
        assert_eq!(NotPlain::of(&device), Some(NotPlain::Kind("a device")));
        let followed = open(&at("link"), 5, Links::Followed).unwrap();
        assert_eq!(followed.1.len(), 5);
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
        // To write as well: nothing is made through a link.
        symlink(at("made"), at("dangling")).unwrap();
        let mut options = OpenOptions::new();
        options.create(true).write(true);
        let error = open_with(&mut options, &at("dangling"), Links::Refused).unwrap_err();
        assert_eq!(NotPlain::of(&error), Some(NotPlain::Link));
        assert!(!at("made").exists());
    }
}
