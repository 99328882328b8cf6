//! A daemon that can't start is started again by systemd, at once and for ever: knocks wait meanwhile. So that a
//! mistake which nobody mends doesn't fill the journal, each start that fails soon after another one ends later.
//!
//! The number of failures in a row is kept in the folder `knockd-state` that systemd has made for the daemon below /run
//! (RUNTIME_DIRECTORY), for a state folder may be what can't be written; without one nobody starts it again, and nothing
//! waits.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::journal::VOLATILE;

/// The name of the file with the number of failures in a row.
const FILE_NAME: &str = "failed-starts";
/// How long the second failure waits; each further one twice as long as the one before.
const FIRST: Duration = Duration::from_millis(250);
/// What no failure waits longer than.
const LONGEST: Duration = Duration::from_secs(10);
/// A failure that is longer ago isn't the one before.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// The daemon runs: the next failure is the first.
pub fn is_over() {
    if let Some(file) = file() {
        // Where it is still there, the next failure waits a little for nothing.
        let _ = fs::remove_file(file);
    }
}

/// Waits as long as befits the number of failures in a row, this one included.
pub fn wait() {
    if let Some(file) = file() {
        thread::sleep(pause(count(&file)));
    }
}

fn file() -> Option<PathBuf> {
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    env::split_paths(&folders)
        .find(|folder| folder.file_name() == Path::new(VOLATILE).file_name())
        .map(|folder| folder.join(FILE_NAME))
}

/// How many failures came before this one, which is counted.
fn count(file: &Path) -> u32 {
    let is_recent = fs::metadata(file)
        .and_then(|file| file.modified())
        // One of the future was written before somebody set the clock.
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FORGOTTEN_AFTER));
    let before = if is_recent { fs::read_to_string(file).ok() } else { None };
    let before = before.and_then(|text| text.trim().parse().ok()).unwrap_or(0_u32);
    // A folder that can't be written is told of by who needs it; then none waits.
    let _ = fs::write(file, before.saturating_add(1).to_string());
    before
}

fn pause(before: u32) -> Duration {
    match before.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(10)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_first_failure_waits_for_nothing_and_each_further_one_longer_up_to_a_bound() {
        let pauses: Vec<_> = (0..5).map(|before| pause(before).as_millis()).collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn failures_are_counted_until_one_is_long_ago() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        assert_eq!([count(&file), count(&file), count(&file)], [0, 1, 2]);
        let old = SystemTime::now() - 2 * FORGOTTEN_AFTER;
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        assert_eq!([count(&file), count(&file)], [0, 1]);
        fs::write(&file, "no number").unwrap();
        assert_eq!(count(&file), 0);
    }
}
