//! The daemon's end: takes requests, and hands each to the event loop together with a way back.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{Group, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use tracing::{error, info, warn};

use super::{
    Access, Peer, REQUEST_MAX, Refused, RefusedKind, Reply, Request, look_up,
    places::{OF_ONE, Places},
};

/// How long one may take to ask, and to take the reply.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The group of operators, who may connect beside root.
const OPERATORS: &str = "knockd";
/// The group of readers.
const READERS: &str = "knockd-readers";
const MODE: u32 = 0o660;
/// How long to wait after a failure to accept, so that a lasting one doesn't take a whole core.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_millis(100);
/// How long after a failure to listen it is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// A request, who has made it, and the way back.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    /// Who asks.
    pub by: Peer,
    reply: oneshot::Sender<Reply>,
}

impl Asked {
    /// Whether whoever asked is gone, and believes that nothing was done.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    /// The refusal of a request that who asks may not make, by the socket that it came by.
    #[must_use]
    pub fn refusal(&self) -> Option<Refused> {
        (self.by.access < self.request.access()).then(|| {
            Refused::new(
                RefusedKind::NotAllowed,
                "readers may look and change nothing: run it as root, or as a member of the group knockd",
            )
        })
    }

    /// Answers it. Whoever has gone meanwhile isn't told.
    pub fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }
}

/// The control sockets, served by tasks of their own.
pub struct Control {
    requests: mpsc::Receiver<Asked>,
}

impl Control {
    /// Listens at this path, and for readers beside it, where an earlier run may have left its sockets. Call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// What stands in the way of the control socket. That there is none for readers is told, and keeps nobody else
    /// from asking.
    pub fn listen(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        let operate = bind(path, OPERATORS)?;
        let read = super::read_path(path);
        let read = bind(&read, READERS)
            .inspect_err(|error| {
                warn!(
                    event = "no-readers",
                    "the socket {} for readers can't be made, and they can't ask: {error}",
                    read.display()
                );
            })
            .ok();
        Ok(Self::serve(operate, read))
    }

    /// Listens as [`Self::listen`] does, now or as soon as it can: what stands in the way is told, and tried again. The
    /// door needs nobody who asks.
    pub fn listen_when_possible(path: &Path) -> Self {
        Self::listen(path).unwrap_or_else(|error| {
            let (sender, requests) = mpsc::channel(1);
            tokio::spawn(keep_trying(path.to_owned(), error, sender));
            Self { requests }
        })
    }

    /// Listens at sockets that were passed on, whose owners and modes are their maker's. Call it inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(operate: net::UnixListener, read: Option<net::UnixListener>) -> io::Result<Self> {
        let adopt = |socket: net::UnixListener| {
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket)
        };
        Ok(Self::serve(adopt(operate)?, read.map(adopt).transpose()?))
    }

    fn serve(operate: UnixListener, read: Option<UnixListener>) -> Self {
        let (sender, requests) = mpsc::channel(1);
        let places = Places::default();
        if let Some(read) = read {
            tokio::spawn(accept(read, Access::Read, places.clone(), sender.clone()));
        }
        tokio::spawn(accept(operate, Access::Operate, places, sender));
        Self { requests }
    }

    /// Waits for the next request. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

fn bind(path: &Path, group: &str) -> io::Result<UnixListener> {
    remove_what_nobody_listens_at(path)?;
    let listener = UnixListener::bind(path)?;
    give_to(group, path);
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Gives a socket to the group of operators, where there is one.
pub(crate) fn give_to_the_group(path: &Path) {
    give_to(OPERATORS, path);
}

/// Gives a socket to the group that may connect to it, where there is one.
fn give_to(name: &str, path: &Path) {
    if let Ok(Some(group)) = Group::from_name(name)
        // It is the daemon's own where that has one: then nothing is to be given away, nor might be.
        && fs::metadata(path).is_ok_and(|socket| socket.gid() != group.gid.as_raw())
        && let Err(error) = chown(path, None, Some(group.gid))
    {
        warn!(
            event = "socket-root-only",
            "the socket {} can't be given to the group {name}, so that root alone can connect: {error}",
            path.display()
        );
    }
}

/// Removes the socket of a daemon that is gone. Waits for nobody: one whose queue of connections is full is listened at,
/// too.
pub(crate) fn remove_what_nobody_listens_at(path: &Path) -> io::Result<()> {
    let in_use = || io::Error::new(ErrorKind::AddrInUse, "another program listens there");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(in_use()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(in_use()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // What is there is a socket: connecting to any other file fails alike, and must not remove it.
        Err(error)
            if error.kind() == ErrorKind::ConnectionRefused
                && fs::symlink_metadata(path)?.file_type().is_socket() =>
        {
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

/// Hands on what is asked for, once it can be listened for.
async fn keep_trying(path: PathBuf, mut error: io::Error, sender: mpsc::Sender<Asked>) {
    let shown = path.display();
    error!(
        event = "control-failed",
        "nobody can ask this daemon at the control socket {shown}: {error} (control = \"…\"); tried again"
    );
    let mut pause = FIRST_RETRY;
    let mut control = loop {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
        let path = path.clone();
        // Names of groups are looked up, and whoever listens there is asked.
        let listening = spawn_blocking(move || Control::listen(&path)).await;
        match listening.map_err(io::Error::other).and_then(|listening| listening) {
            Ok(control) => break control,
            Err(another) => error = another,
        }
    };
    info!(event = "control-back", "it can be asked again, after: {error}");
    while let Some(asked) = control.next().await {
        if sender.send(asked).await.is_err() {
            return;
        }
    }
}

async fn accept(
    listener: UnixListener,
    access: Access,
    places: Places,
    sender: mpsc::Sender<Asked>,
) {
    loop {
        let accepted = listener.accept().await.and_then(|(connection, _)| {
            let by = connection.peer_cred()?;
            let by = Peer { uid: by.uid(), pid: by.pid().unwrap_or(0), access };
            Ok((connection, by))
        });
        match accepted {
            Ok((connection, by)) => match places.take(by.uid) {
                Some(place) => {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        // One who is too slow, or gone, has no answer.
                        let _ = serve(connection, by, sender).await;
                        drop(place);
                    });
                }
                None => turn_away(&connection),
            },
            Err(_) => sleep(AFTER_A_FAILED_ACCEPT).await,
        }
    }
}

/// Says that there is no place, in a socket's empty buffer: it doesn't wait.
fn turn_away(connection: &UnixStream) {
    let busy = Refused::new(
        RefusedKind::Busy,
        format!(
            "too many connections of one user at once, of which {OF_ONE} are served: try again"
        ),
    );
    if let Ok(mut text) = serde_json::to_string(&Reply::Refused(busy)) {
        text.push('\n');
        let _ = connection.try_write(text.as_bytes());
    }
}

async fn serve(
    mut connection: UnixStream,
    by: Peer,
    sender: mpsc::Sender<Asked>,
) -> io::Result<()> {
    let (reader, mut writer) = connection.split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reader.take(REQUEST_MAX)).read_line(&mut line)).await??;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            timeout(request.patience(), async { looked_up(ask(request, by, &sender).await).await })
                .await?
        }
        // What can't be understood isn't repeated, and serde's error repeats parts of it.
        Err(_) => Reply::Refused(Refused::new(
            RefusedKind::Request,
            "this daemon doesn't understand the request: it is of another version, or names what can't be a name",
        )),
    };
    let mut text = serde_json::to_string(&reply).map_err(io::Error::other)?;
    text.push('\n');
    timeout(PATIENCE, writer.write_all(text.as_bytes())).await?
}

/// Adds to a status what must be looked up, on another thread.
async fn looked_up(reply: Reply) -> Reply {
    let Reply::Status(mut status) = reply else { return reply };
    let known = status.clone();
    let complete = spawn_blocking(move || {
        look_up::look_up(&mut status);
        status
    });
    Reply::Status(complete.await.unwrap_or(known))
}

async fn ask(request: Request, by: Peer, sender: &mpsc::Sender<Asked>) -> Reply {
    let (reply, answer) = oneshot::channel();
    let gone = || Reply::Refused(Refused::new(RefusedKind::Failed, "the daemon is ending"));
    match sender.send(Asked { request, by, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| gone()),
        Err(_) => gone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_whose_queue_is_full_is_in_use_and_one_of_nobody_is_removed_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let address = SockAddr::unix(&path).unwrap();
        let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&address).unwrap();
        listener.listen(1).unwrap();
        let mut waiting = Vec::new();
        let is_full = loop {
            let client = socket();
            client.set_nonblocking(true).unwrap();
            match client.connect(&address) {
                Ok(()) => waiting.push(client),
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        assert!(is_full && !waiting.is_empty());
        let in_use = remove_what_nobody_listens_at(&path).unwrap_err();
        assert_eq!(in_use.kind(), ErrorKind::AddrInUse);
        drop(listener);
        remove_what_nobody_listens_at(&path).unwrap();
        assert!(!path.exists());
        remove_what_nobody_listens_at(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(remove_what_nobody_listens_at(&path).is_err() && path.exists());
    }
}
