//! Receives knocks: some hundred datagrams in one system call, each with its source.
//!
//! # Security considerations
//! - Nothing is sent here. Where replies are on, it is kept how each packet came, for [`crate::replies`].
//! - A datagram longer than a packet is cut off one byte behind it, so that its length still shows that
//!   it is none; memory is what was set aside at start, whatever arrives.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::{self, IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    task::Poll,
};

use common::DATAGRAM_LEN;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag,
        SockType, SockaddrStorage, bind, recvmmsg, setsockopt, socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    drops::{self, SocketInode},
    gate::policy::ReplyPolicy,
};

/// Datagrams taken in one system call at most.
const BATCH: usize = 256;
/// One byte more than a packet has: enough to see that a datagram is too long.
const BUFFER_LEN: usize = DATAGRAM_LEN + 1;
/// Room for the packets of a fleet of 100,000 that comes back at once: the kernel counts 768 bytes for each,
/// and doubles what is asked for (socket(7), SO_RCVBUF). Memory is used only while packets wait.
const RECEIVE_BUFFER: usize = 64 << 20;

/// The sockets that knocks come in at.
pub struct Listener {
    sockets: Vec<UdpSocket>,
    inodes: Vec<SocketInode>,
    /// What was dropped at sockets that were passed on, before they were.
    dropped_before: u64,
    /// Where to look first, so that no socket starves another.
    turn: usize,
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; BUFFER_LEN]>,
    /// Length and source of each datagram of the batch.
    received: Vec<(usize, IpAddr)>,
    /// How each came, where that is kept.
    ways: Option<Vec<Option<Way>>>,
    /// The socket that the batch came in at.
    from: usize,
}

/// How a datagram came.
#[derive(Clone, Copy)]
struct Way {
    from: SockaddrStorage,
    to: OwnAddress,
}

/// The address of this host that a datagram was sent to.
#[derive(Clone, Copy)]
pub enum OwnAddress {
    /// At a socket for IPv4.
    V4(libc::in_pktinfo),
    /// At a socket for IPv6; it may be the IPv6 form of an IPv4 address.
    V6(libc::in6_pktinfo),
}

impl OwnAddress {
    /// From what the kernel tells of a datagram. The interface is left to the routes: replies may have to leave by
    /// another one than the datagram came in at.
    fn of(message: &ControlMessageOwned) -> Option<Self> {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Self::V4(libc::in_pktinfo { ipi_ifindex: 0, ..*info }))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Self::V6(libc::in6_pktinfo { ipi6_ifindex: 0, ..*info }))
            }
            _ => None,
        }
    }

    /// What has a datagram sent from this address.
    #[must_use]
    pub const fn message(&self) -> ControlMessage<'_> {
        match self {
            Self::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Self::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}

/// The way back to who sent a datagram.
pub struct WayBack<'a> {
    /// The socket that it came in at.
    pub socket: &'a UdpSocket,
    /// Where it came from.
    pub to: &'a SockaddrStorage,
    /// The address that it was sent to.
    pub from: OwnAddress,
}

/// How a datagram came, and at which socket: it outlives its batch.
#[derive(Clone, Copy)]
pub struct KeptWay {
    way: Way,
    socket: usize,
}

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on udp {address}: {error}{hint}", hint = hint(.error))]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has this port: see `ss -ulpn`",
        io::ErrorKind::AddrNotAvailable => "; this host doesn't have that address (listen = …)",
        io::ErrorKind::Unsupported => {
            "; this kernel has no IPv6: write an IPv4 address (listen = …)"
        }
        io::ErrorKind::PermissionDenied => "; a port below 1024 needs CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Whether this kernel has IPv6 at all.
#[must_use]
pub fn kernel_has_ipv6() -> bool {
    let made = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(made, Err(Errno::EAFNOSUPPORT))
}

impl Listener {
    /// Binds a socket to each of these addresses. Call it inside a tokio runtime.
    ///
    /// `[::]` takes IPv4 as well, unless an IPv4 address is listed beside it.
    ///
    /// # Errors
    /// [`ListenError`] names the address.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        let has_ipv4 = addresses.iter().any(SocketAddr::is_ipv4);
        let mut sockets = Vec::new();
        for address in addresses {
            let fail = |error| ListenError { address: *address, error };
            sockets.push(open(*address, has_ipv4).map_err(fail)?);
        }
        Self::of(sockets).map_err(|error| ListenError { address: first(addresses), error })
    }

    /// Takes sockets that are bound already to these addresses, with what waits in them. Call it inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`ListenError`]
    pub fn adopt(
        passed: Vec<net::UdpSocket>,
        addresses: &[SocketAddr],
    ) -> Result<Self, ListenError> {
        let adopt = |passed: net::UdpSocket| {
            passed.set_nonblocking(true)?;
            make_room(&passed)?;
            UdpSocket::from_std(passed)
        };
        let fail = |error| ListenError { address: first(addresses), error };
        let sockets: io::Result<_> = passed.into_iter().map(adopt).collect();
        let mut listener = Self::of(sockets.map_err(fail)?).map_err(fail)?;
        // Who looks at them later tells why that can't be read.
        listener.dropped_before = drops::dropped(&listener.inodes).unwrap_or_default();
        Ok(listener)
    }

    fn of(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let inodes: io::Result<_> = sockets.iter().map(SocketInode::of).collect();
        Ok(Self {
            sockets,
            inodes: inodes?,
            dropped_before: 0,
            turn: 0,
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; BUFFER_LEN]; BATCH],
            received: Vec::with_capacity(BATCH),
            ways: None,
            from: 0,
        })
    }

    /// Keeps how datagrams come, or no longer does: what there is to keep costs a little with each batch.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn keep_ways(&mut self, reply: ReplyPolicy) -> io::Result<()> {
        let on = reply == ReplyPolicy::On;
        for socket in &self.sockets {
            match socket.local_addr()? {
                SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &on)?,
                SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &on)?,
            }
        }
        self.ways = on.then(|| Vec::with_capacity(BATCH));
        Ok(())
    }

    /// The way back to who sent a datagram of the batch, by its place there.
    #[must_use]
    pub fn way_back(&self, at: usize) -> Option<WayBack<'_>> {
        let way = self.ways.as_ref()?.get(at)?.as_ref()?;
        Some(WayBack { socket: self.sockets.get(self.from)?, to: &way.from, from: way.to })
    }

    /// The same, for longer than the batch is here.
    #[must_use]
    pub fn keep_way(&self, at: usize) -> Option<KeptWay> {
        let way = *self.ways.as_ref()?.get(at)?.as_ref()?;
        Some(KeptWay { way, socket: self.from })
    }

    /// The way back that was kept.
    #[must_use]
    pub fn kept<'a>(&'a self, kept: &'a KeptWay) -> Option<WayBack<'a>> {
        let KeptWay { way, socket } = kept;
        Some(WayBack { socket: self.sockets.get(*socket)?, to: &way.from, from: way.to })
    }

    /// How many datagrams were dropped at sockets that were passed on, from when they were opened until they
    /// were taken here.
    #[must_use]
    pub const fn dropped_before(&self) -> u64 {
        self.dropped_before
    }

    /// How many datagrams the kernel has dropped for want of room in the sockets' buffers, since this listens.
    ///
    /// # Errors
    /// If the kernel's tables can't be read.
    pub fn dropped(&self) -> io::Result<u64> {
        Ok(drops::dropped(&self.inodes)?.saturating_sub(self.dropped_before))
    }

    /// Whether the last batch was as large as one can be, so that more may be waiting.
    #[must_use]
    pub fn was_full(&self) -> bool {
        self.received.len() == BATCH
    }

    /// Waits for datagrams and takes as many as there are, up to a batch: then they are in
    /// [`Listener::batch`]. Nothing is lost if it is dropped while it waits.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn receive(&mut self) -> io::Result<()> {
        loop {
            let at = self.readable().await?;
            if self.take_batch(at)? {
                return Ok(());
            }
        }
    }

    /// The datagrams that were received last, each with its source.
    pub fn batch(&self) -> impl Iterator<Item = (&[u8], IpAddr)> {
        self.buffers.iter().zip(&self.received).map(|(buffer, (length, source))| {
            (buffer.get(..*length).unwrap_or(buffer.as_slice()), *source)
        })
    }

    /// The index of a socket that has something.
    async fn readable(&mut self) -> io::Result<usize> {
        let (sockets, turn) = (&self.sockets, self.turn);
        let at = poll_fn(|context| {
            let in_turn = sockets.iter().enumerate().cycle().skip(turn).take(sockets.len());
            for (at, socket) in in_turn {
                if let Poll::Ready(ready) = socket.poll_recv_ready(context) {
                    return Poll::Ready(ready.map(|()| at));
                }
            }
            Poll::Pending
        })
        .await?;
        self.turn = (at + 1) % self.sockets.len();
        Ok(at)
    }

    /// Takes a batch from a socket; false if there was nothing after all.
    fn take_batch(&mut self, at: usize) -> io::Result<bool> {
        self.received.clear();
        let Some(socket) = self.sockets.get(at) else { return Ok(false) };
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        self.from = at;
        if let Some(ways) = &mut self.ways {
            ways.clear();
            // The kernel has written the lengths of what it told into the headers: there is room once only.
            self.headers =
                MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(libc::in6_pktinfo)));
        }
        let result = socket.try_io(Interest::READABLE, || {
            let batch = recvmmsg(
                socket.as_raw_fd(),
                &mut self.headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            )?;
            for message in batch {
                self.received.push((message.bytes, source(message.address)));
                if let Some(ways) = &mut self.ways {
                    let own = message
                        .cmsgs()
                        .ok()
                        .and_then(|mut told| told.find_map(|message| OwnAddress::of(&message)));
                    let way = message.address.zip(own);
                    ways.push(way.map(|(from, to)| Way { from, to }));
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// A datagram's source; the kernel always gives one of the socket's family.
fn source(address: Option<SockaddrStorage>) -> IpAddr {
    let of_ipv4 =
        address.and_then(|address| address.as_sockaddr_in().map(|from| IpAddr::V4(from.ip())));
    let of_ipv6 =
        address.and_then(|address| address.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())));
    of_ipv4.or(of_ipv6).unwrap_or(IpAddr::from([0, 0, 0, 0])).to_canonical()
}

fn open(address: SocketAddr, has_ipv4: bool) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket: OwnedFd =
        socket(family, SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &has_ipv4)?;
    }
    make_room(&socket)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    UdpSocket::from_std(socket.into())
}

/// Beyond net.core.rmem_max with CAP_NET_ADMIN, up to it without.
fn make_room(socket: &impl AsFd) -> io::Result<()> {
    if let Err(Errno::EPERM) = setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok(())
}

/// The address that an error names which isn't one address' alone.
fn first(addresses: &[SocketAddr]) -> SocketAddr {
    addresses.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}
