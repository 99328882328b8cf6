//! The resolvers that resolv.conf names: resolv.conf(5).

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Read as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::libc;

/// How long a disk may take: whoever asks has packets to deal with.
const PATIENCE: Duration = Duration::from_millis(100);
/// Readings that may hang at once, before no more are begun.
const HANGING: usize = 8;
/// Longest file that is read, in bytes.
const LENGTH_MAX: u64 = 64 * 1024;

/// What a file says of resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolvers {
    /// It names these; none if it isn't there.
    Named(Vec<IpAddr>),
    /// It is there and can't be read, or not in a tenth of a second, since the disk that it is on hangs: its path,
    /// and why.
    Unread(String),
}

/// What each of these files says of resolvers.
pub(super) fn read_all(paths: &'static [&'static str]) -> Vec<Resolvers> {
    static READINGS: AtomicUsize = AtomicUsize::new(0);
    let unread = |why: &str| vec![Resolvers::Unread(format!("{}: {why}", paths.join(", ")))];
    if READINGS.fetch_add(1, Ordering::Relaxed) >= HANGING {
        READINGS.fetch_sub(1, Ordering::Relaxed);
        return unread("too slow");
    }
    let (sender, found) = mpsc::channel();
    let reading = thread::Builder::new().name("resolvers".to_owned()).spawn(move || {
        let read: Vec<Resolvers> = paths.iter().map(|path| read(Path::new(path))).collect();
        READINGS.fetch_sub(1, Ordering::Relaxed);
        // Who asked waits no longer, perhaps.
        let _ = sender.send(read);
    });
    if let Err(error) = reading {
        READINGS.fetch_sub(1, Ordering::Relaxed);
        return unread(&error.to_string());
    }
    found.recv_timeout(PATIENCE).unwrap_or_else(|_| unread("too slow"))
}

/// What a file says of resolvers.
fn read(path: &Path) -> Resolvers {
    let bytes = || -> io::Result<Vec<u8>> {
        // A pipe in its place, which nobody writes to, is empty.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let mut bytes = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match bytes() {
        Ok(bytes) => Resolvers::Named(named_in(&String::from_utf8_lossy(&bytes)).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Resolvers::Named(Vec::new()),
        Err(error) => Resolvers::Unread(format!("{}: {error}", path.display())),
    }
}

/// The addresses of the `nameserver` lines. A line that isn't as resolv.conf(5) has it names none, as for
/// the resolver library itself.
fn named_in(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // A link-local one may say on which link: fe80::1%eth0.
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nameserver_line_names_one_and_no_other_line_does() {
        let text = "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch 192.0.2.3\n\
                    nameserver 10.77.0.53\nnameserver\tfd77::53  \nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver resolver.example\nnameservers 192.0.2.4\noptions edns0\n\
                    nameserver 127.0.0.53 # the stub";
        let named: Vec<String> = named_in(text).map(|address| address.to_string()).collect();
        assert_eq!(named, ["10.77.0.53", "fd77::53", "fe80::1", "127.0.0.53"]);
    }

    #[test]
    fn a_file_that_is_not_there_names_none_and_one_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("resolv.conf");
        assert_eq!(read(&missing), Resolvers::Named(Vec::new()));
        let unread = read(folder.path());
        let path = folder.path().display().to_string();
        assert!(matches!(&unread, Resolvers::Unread(why) if why.starts_with(&path)), "{unread:?}");
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("resolv.conf");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&pipe), Resolvers::Named(Vec::new()));
    }
}
