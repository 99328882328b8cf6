//! The daemon's end: takes requests, and hands each to the event loop together with a way back.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Group, chown};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use tracing::{error, info, warn};

use super::{REQUEST_MAX, Refused, RefusedKind, Reply, Request, look_up};

/// Connections that are served at once.
pub const CONNECTIONS: usize = 16;
/// How long one may take to ask, and to take the reply.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The group that may connect, beside root.
const GROUP: &str = "knockd";
const MODE: u32 = 0o660;
/// How long to wait after a failure to accept, so that a lasting one doesn't take a whole core.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_millis(100);
/// How long after a failure to listen it is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// A request, and the way back.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    reply: oneshot::Sender<Reply>,
}

impl Asked {
    /// Whether whoever asked is gone, and believes that nothing was done.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers it. Whoever has gone meanwhile isn't told.
    pub fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }
}

/// The control socket, served by tasks of their own.
pub struct Control {
    requests: mpsc::Receiver<Asked>,
}

impl Control {
    /// Listens at this path, where an earlier run may have left its socket. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What stands in the way of it.
    pub fn listen(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        remove_what_nobody_listens_at(path)?;
        let listener = UnixListener::bind(path)?;
        give_to_the_group(path);
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        Ok(Self::serve(listener))
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

    /// Listens at a socket that was passed on, whose owner and mode are its maker's. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::serve(UnixListener::from_std(socket)?))
    }

    fn serve(listener: UnixListener) -> Self {
        let (sender, requests) = mpsc::channel(1);
        tokio::spawn(accept(listener, sender));
        Self { requests }
    }

    /// Waits for the next request. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

/// Gives a socket to the group that may connect to it, where there is one.
pub(crate) fn give_to_the_group(path: &Path) {
    if let Ok(Some(group)) = Group::from_name(GROUP)
        // It is the daemon's own where that has one: then nothing is to be given away, nor might be.
        && fs::metadata(path).is_ok_and(|socket| socket.gid() != group.gid.as_raw())
        && let Err(error) = chown(path, None, Some(group.gid))
    {
        warn!(
            event = "socket-root-only",
            "the socket {} can't be given to the group {GROUP}, so that root alone can connect: {error}",
            path.display()
        );
    }
}

/// Removes the socket of a daemon that is gone.
pub(crate) fn remove_what_nobody_listens_at(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another program listens there")),
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

async fn accept(listener: UnixListener, sender: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    // One who is too slow, or gone, has no answer.
                    let _ = serve(connection, sender).await;
                    drop(place);
                });
            }
            Err(_) => sleep(AFTER_A_FAILED_ACCEPT).await,
        }
    }
}

async fn serve(mut connection: UnixStream, sender: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = connection.split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reader.take(REQUEST_MAX)).read_line(&mut line)).await??;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            timeout(request.patience(), async { looked_up(ask(request, &sender).await).await })
                .await?
        }
        Err(error) => Reply::Refused(Refused::new(
            RefusedKind::Request,
            format!(
                "this daemon doesn't understand the request: {error}; is it of another version?"
            ),
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

async fn ask(request: Request, sender: &mpsc::Sender<Asked>) -> Reply {
    let (reply, answer) = oneshot::channel();
    let gone = || Reply::Refused(Refused::new(RefusedKind::Failed, "the daemon is ending"));
    match sender.send(Asked { request, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| gone()),
        Err(_) => gone(),
    }
}
