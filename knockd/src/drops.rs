//! Datagrams that the kernel dropped because a socket's receive buffer was full, so that a lost knock is
//! never silent. Read from /proc/self/net/udp and udp6, which are there also where
//! /proc shows processes alone (systemd's ProcSubset=pid): see proc(5), and `udp4_format_sock` in the kernel's
//! net/ipv4/udp.c for the last column.

use std::{fs, io, os::fd::AsFd};

use nix::sys::stat::fstat;

/// The number by which a socket is found in /proc/net/udp: its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketInode(u64);

impl SocketInode {
    /// A socket's inode.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        Ok(Self(fstat(socket)?.st_ino))
    }
}

/// How many datagrams were dropped at these sockets since they were opened.
///
/// # Errors
/// If the kernel's tables can't be read.
pub fn dropped(sockets: &[SocketInode]) -> io::Result<u64> {
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"].map(fs::read_to_string);
    // Where IPv6 is off the second one isn't there.
    let [ipv4, ipv6] = tables;
    Ok(count(&ipv4?, sockets) + count(&ipv6.unwrap_or_default(), sockets))
}

fn count(table: &str, sockets: &[SocketInode]) -> u64 {
    table
        .lines()
        .skip(1)
        .filter_map(row)
        .filter(|(inode, _)| sockets.contains(inode))
        .map(|(_, drops)| drops)
        .sum()
}

/// The inode and the drops of a line.
fn row(line: &str) -> Option<(SocketInode, u64)> {
    let mut columns = line.split_ascii_whitespace();
    let inode = columns.nth(9)?.parse().ok()?;
    let drops = columns.next_back()?.parse().ok()?;
    Some((SocketInode(inode), drops))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_drops_are_those_of_the_socket_with_this_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     100: 00000000:F2F9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 17\n\
                     101: 00000000:F2FA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 5\n";
        assert_eq!(count(table, &[SocketInode(4711)]), 17);
        assert_eq!(count(table, &[SocketInode(4711), SocketInode(4712)]), 22);
        assert_eq!(count(table, &[SocketInode(1)]), 0);
    }

    #[test]
    fn what_a_full_receive_buffer_drops_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = SocketInode::of(&receiver).unwrap();
        assert_eq!(dropped(&[inode]).unwrap(), 0);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..5_000 {
            sender.send_to(&[0; 1_000], receiver.local_addr().unwrap()).unwrap();
        }
        assert!(dropped(&[inode]).unwrap() > 0);
    }
}
