//! What kind of storage a file is on: whether it forgets, and why it can't be written.
//!
//! Read from /proc/self/mountinfo (proc_pid_mountinfo(5)), which shows the mounts as this process sees them. Where it
//! can't be read nothing is known, and nothing is said.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MOUNTS: &str = "/proc/self/mountinfo";

/// The mount that a file is on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    kind: String,
    /// Options of the filesystem itself, whoever mounted it.
    options: String,
}

/// Why nothing can be written to a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOnly {
    /// It is mounted so for everybody: after an error of the disk, or on purpose.
    Disk,
    /// It is so for this process alone, as in a unit with `ProtectSystem=`.
    Here,
}

/// The storage that forgets everything when the device is restarted, if the file is on such.
pub(crate) fn that_forgets(path: &Path) -> Option<&'static str> {
    forgetful(&fs::read_to_string(MOUNTS).ok()?, &absolute(path))
}

/// Why the filesystem that a file is on is read-only, if it is known to be.
pub(crate) fn read_only(path: &Path) -> ReadOnly {
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    let mount = mount_of(&mounts, &absolute(path));
    let is_writable = mount.is_some_and(|mount| mount.options.split(',').any(|it| it == "rw"));
    if is_writable { ReadOnly::Here } else { ReadOnly::Disk }
}

/// Its folder's path without links; the file itself may not be there yet.
fn absolute(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    folder.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default()
}

fn forgetful(mounts: &str, path: &Path) -> Option<&'static str> {
    let mount = mount_of(mounts, path)?;
    match mount.kind.as_str() {
        "tmpfs" => Some("tmpfs"),
        "ramfs" => Some("ramfs"),
        "overlay" => {
            let upper = mount.options.split(',').find_map(|it| it.strip_prefix("upperdir="))?;
            // What isn't to be seen from here, as in a container, lands on the root of what is.
            let upper = mount_of(mounts, Path::new(upper)).filter(|below| *below != mount)?;
            matches!(upper.kind.as_str(), "tmpfs" | "ramfs").then_some("an overlay on tmpfs")
        }
        _ => None,
    }
}

/// The mount that a path is on: of those above it the deepest, and of these the last, which hides the others.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let above = mounts.lines().filter_map(mount).filter(|mount| path.starts_with(&mount.at));
    above.max_by_key(|mount| mount.at.components().count())
}

/// A line: id, parent, device, root, mount point, options, any number of fields, "-", kind, source, options.
fn mount(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let at = mount.split(' ').nth(4)?.replace("\\040", " ").into();
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?.to_owned();
    Some(Mount { at, kind, options: filesystem.nth(1)?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENWRT: &str = "\
14 1 31:2 / /rom ro,relatime shared:1 - squashfs /dev/root ro
16 19 0:4 / /proc rw,nosuid shared:3 - proc proc rw
18 19 0:16 / /tmp rw,nosuid shared:5 - tmpfs tmpfs rw
20 19 31:3 / /overlay rw,noatime shared:7 - jffs2 /dev/mtdblock3 rw
19 1 0:17 / / rw,noatime shared:8 - overlay overlayfs:/overlay rw,lowerdir=/,upperdir=/overlay/upper,workdir=/overlay/work
";

    fn on(mounts: &str, path: &str) -> Option<&'static str> {
        forgetful(mounts, Path::new(path))
    }

    #[test]
    fn tmpfs_forgets_and_so_does_an_overlay_on_it_while_one_on_flash_does_not() {
        assert_eq!(on(OPENWRT, "/tmp/lib/knock"), Some("tmpfs"));
        assert_eq!(on(OPENWRT, "/etc/knock"), None);
        let failsafe = OPENWRT.replace("jffs2 /dev/mtdblock3", "tmpfs root");
        assert_eq!(on(&failsafe, "/etc/knock"), Some("an overlay on tmpfs"));
        let container = "9 1 0:17 / / rw - overlay overlay rw,lowerdir=/var/x,upperdir=/var/y\n";
        assert_eq!(on(container, "/var/lib/knock"), None, "nobody can tell from inside");
        assert_eq!(on("", "/"), None);
        assert_eq!(on("nonsense\n1 2 - x\n", "/"), None);
    }

    #[test]
    fn the_deepest_mount_above_a_path_counts_and_a_later_one_hides_an_earlier_one() {
        let mounts = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:9 / /var/lib rw - tmpfs tmpfs rw
3 2 8:2 / /var/lib/knock\\040a rw - ext4 /dev/sda2 rw
4 2 0:8 / /srv rw - ext4 /dev/sda3 rw
5 4 0:7 / /srv rw - ramfs ramfs rw
";
        assert_eq!(on(mounts, "/var/lib/knock"), Some("tmpfs"));
        assert_eq!(on(mounts, "/var/library"), None);
        assert_eq!(on(mounts, "/var/lib/knock a/state"), None);
        assert_eq!(on(mounts, "/srv/x"), Some("ramfs"));
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_where_its_folder_is_or_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(absolute(&folder.path().join("a/b/counter")), real);
    }
}
