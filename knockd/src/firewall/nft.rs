//! The program `nft`, which says the table's text to the kernel. It runs once for each ruleset ([`super::template`]), for
//! a table that goes in with somebody else's ruleset, and for none of what the daemon does between packets.
//!
//! # Security considerations
//! - It runs in a thread of whoever asks, one at a time, and is killed when it takes too long: a program that hangs holds
//!   nothing up for longer.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::FirewallError;

/// How long it may take: it waits for other transactions, which take seconds if they are large.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended: from the first on doubled up to the last.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(20);
/// The most that is read of what it says.
const SAID_AT_MOST: u64 = 64 * 1024;

/// Runs a script as one transaction: all of it takes effect, or nothing.
///
/// # Errors
/// [`FirewallError::Nft`] with what nft says, or that it took too long.
pub fn run(script: &str) -> Result<(), FirewallError> {
    run_with(&["-f", "-"], script).map(|_| ())
}

/// Has the kernel check a script, without doing what it says.
///
/// # Errors
/// [`FirewallError::Nft`] with what nft says, or that it took too long.
pub fn check(script: &str) -> Result<(), FirewallError> {
    run_with(&["--check", "-f", "-"], script).map(|_| ())
}

/// What nft calls its version, as "nftables v1.0.6".
///
/// # Errors
/// [`FirewallError::Nft`] if it can't be run.
pub fn version() -> Result<String, FirewallError> {
    let text = run_with(&["--version"], "")?;
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

/// Runs it, and returns what it writes to its output.
fn run_with(args: &[&str], script: &str) -> Result<String, FirewallError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let ran = files(script).and_then(|(input, output, errors)| {
        let mut nft = Command::new("nft")
            .args(args)
            .stdin(input)
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(errors.try_clone()?))
            .spawn()?;
        let status = wait(&mut nft)?;
        Ok((status, said(output)?, said(errors)?))
    });
    match ran.map_err(|error| cannot_run(&error))? {
        (None, ..) => Err(FirewallError::Nft(format!(
            "it took more than {} s, and was ended",
            PATIENCE.as_secs()
        ))),
        (Some(status), output, _) if status.success() => Ok(output),
        (Some(_), _, errors) => Err(FirewallError::Nft(explain(&errors))),
    }
}

/// Files in memory for its input, its output and its errors: no pipe that could fill, or that a child of it could hold.
fn files(script: &str) -> io::Result<(Stdio, File, File)> {
    let file = || memfd_create("nft", MFdFlags::MFD_CLOEXEC).map(File::from);
    let mut input = file()?;
    input.write_all(script.as_bytes())?;
    input.rewind()?;
    Ok((Stdio::from(input), file()?, file()?))
}

/// Waits until it has ended; `None` if it had to be killed.
fn wait(nft: &mut Child) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = FIRST_LOOK;
    loop {
        if let Some(status) = nft.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= PATIENCE {
            nft.kill()?;
            nft.wait()?;
            return Ok(None);
        }
        sleep(pause);
        pause = (pause * 2).min(LAST_LOOK);
    }
}

fn said(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(SAID_AT_MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cannot_run(error: &io::Error) -> FirewallError {
    FirewallError::Nft(match error.kind() {
        io::ErrorKind::NotFound => {
            "the program nft is not there; install it (Debian: apt install nftables)".to_owned()
        }
        _ => error.to_string(),
    })
}

fn explain(stderr: &str) -> String {
    let said = stderr.trim();
    if said.contains("Operation not permitted") {
        return format!("{said}\nThis needs CAP_NET_ADMIN: run it as root.");
    }
    said.to_owned()
}
