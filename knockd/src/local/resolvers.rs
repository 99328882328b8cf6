//! The resolvers that resolv.conf names: resolv.conf(5).

use std::{fs, io::ErrorKind, net::IpAddr, path::Path};

/// What a file says of resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolvers {
    /// It names these; none if it isn't there.
    Named(Vec<IpAddr>),
    /// It is there and can't be read: its path, and why.
    Unread(String),
}

/// The resolvers in a file.
pub(super) fn read(path: &Path) -> Resolvers {
    match fs::read(path) {
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
}
