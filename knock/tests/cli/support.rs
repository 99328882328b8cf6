//! A device with a key and a folder of its own, and a server that only listens.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    net::UdpSocket,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, SystemTime},
};

use common::{ClientKeys, Datagram, Day, Realm, Request, Secret, Timestamp};
use data_encoding::BASE64;

/// A device, whose home is a temporary folder.
pub(crate) struct Device {
    folder: tempfile::TempDir,
    secret: Secret,
}

/// How a run of `knock` ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}", self.status.signal()))
    }

    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn must_succeed(self) -> Self {
        assert_eq!(self.code(), 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn must_fail(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code(), code, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} isn't in {self:?}");
        }
        self
    }
}

impl Device {
    pub(crate) fn new() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let device =
            Self { folder: tempfile::tempdir().unwrap(), secret: Secret::new(bytes).unwrap() };
        device.write("key", &format!("{}\n", device.key()), 0o600);
        device.write("empty.toml", "", 0o600);
        device
    }

    /// The key in base64.
    pub(crate) fn key(&self) -> String {
        BASE64.encode(self.secret.expose())
    }

    pub(crate) fn keys(&self, realm: &str) -> ClientKeys {
        ClientKeys::derive(&self.secret, &Realm::new(realm).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `knock` in this device's folder, with nothing of the tester's environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knock"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn knock(&self, arguments: &[&str]) -> Run {
        self.finish(self.command(arguments).spawn().unwrap(), "")
    }

    /// `knock` without any profile, towards this server, with the key from its file.
    pub(crate) fn knock_at(&self, server: &Server, arguments: &[&str]) -> Run {
        self.finish(self.command_at(server, arguments).spawn().unwrap(), "")
    }

    pub(crate) fn command_at(&self, server: &Server, arguments: &[&str]) -> Command {
        let name = server.name();
        let own = ["--config", "empty.toml", "--key-file", "key", "--server", &name];
        self.command(&[&own, arguments].concat())
    }

    /// Waits for the end of a run. Whatever the run was, no part of the key may be in its output.
    pub(crate) fn finish(&self, mut child: Child, input: &str) -> Run {
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let run = Run {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        let key = self.key();
        for part in (0..key.len() - 8).map(|at| &key[at..at + 8]) {
            assert!(!run.stdout.contains(part) && !run.stderr.contains(part), "the key: {run:?}");
        }
        run
    }
}

/// A server that receives on one address of the loopback interface, and never answers.
pub(crate) struct Server(UdpSocket);

impl Server {
    pub(crate) fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    pub(crate) fn on(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(socket)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// As `--server` takes it.
    pub(crate) fn name(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let (len, _) = self.0.recv_from(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    /// Receives a datagram and opens it with these keys.
    pub(crate) fn receive_request(&self, keys: &ClientKeys) -> Request {
        open(&self.receive(), keys)
    }

    /// Loopback delivers while the sender sends: what isn't here once `knock` ended was never sent.
    #[track_caller]
    pub(crate) fn must_have_received_nothing(&self) {
        self.0.set_nonblocking(true).unwrap();
        let result = self.0.recv_from(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(result, Err(ErrorKind::WouldBlock));
        self.0.set_nonblocking(false).unwrap();
    }
}

/// Opens a datagram that was sent today.
pub(crate) fn open(datagram: &[u8], keys: &ClientKeys) -> Request {
    assert_eq!(datagram.len(), 116);
    let datagram = Datagram::parse(datagram).unwrap();
    // Midnight may have been between the sending and now.
    let today = Day::of(now()).unwrap();
    let day =
        [today, today.previous().unwrap()].into_iter().find(|day| keys.tag(*day) == datagram.tag());
    datagram.open(keys, day.unwrap()).unwrap()
}

pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap())
}
