//! Hears from the kernel that this virtual machine goes on from a snapshot: what was accepted since it was taken is
//! remembered by nobody, in memory or on the disk.
//!
//! The machine's generation id is another one then, and a kernel that looks after it says so by a uevent
//! (drivers/virt/vmgenid.c, NEW_VMGENID). Uevents are multicast to every network namespace of the first user namespace,
//! and whoever is in one may hear them without a capability (lib/kobject_uevent.c).
//!
//! # Security considerations
//! - Only the kernel's own messages count. Anybody who could forge one could only have more refused.
//! - Where the kernel tells nothing (no such device, an older kernel, a user namespace), a snapshot that is resumed
//!   isn't noticed: SECURITY.md says so.

use std::{io, sync::Arc, thread};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use nix::libc;
use tokio::sync::Notify;
use tracing::warn;

/// The kernel's own group; the device manager repeats them to another one.
const KERNEL: u32 = 1;
/// UEVENT_BUFFER_SIZE (include/linux/kobject.h), and what stands before it.
const RECEIVE_LEN: usize = 8 * 1024;
/// What a uevent of a new generation id holds.
const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";

/// Waits for the machine to be resumed from a snapshot.
#[derive(Debug)]
pub struct SnapshotWatch {
    resumed: Arc<Notify>,
}

impl SnapshotWatch {
    /// Begins to watch; where that can't be, says so and never tells anything.
    #[must_use]
    pub fn start() -> Self {
        let resumed = Arc::new(Notify::new());
        if let Err(error) = watch(Arc::clone(&resumed)) {
            warn!(
                event = "snapshots-unwatched",
                "the kernel's events can't be heard: {error}; a virtual machine that goes on from a snapshot isn't noticed"
            );
        }
        Self { resumed }
    }

    /// Waits until the machine was resumed since the last time. Nothing is lost if it is dropped.
    pub async fn was_resumed(&self) {
        self.resumed.notified().await;
    }
}

fn watch(resumed: Arc<Notify>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.bind(&SocketAddr::new(0, KERNEL))?;
    thread::Builder::new().name("snapshots".to_owned()).stack_size(64 * 1024).spawn(move || {
        let mut buffer = Vec::with_capacity(RECEIVE_LEN);
        loop {
            buffer.clear();
            match socket.recv_from(&mut buffer, 0) {
                Ok((_, from)) if from.port_number() == 0 && is_of_a_new_generation(&buffer) => {
                    resumed.notify_one();
                }
                Ok(_) => {}
                // There were too many at once.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!(
                        event = "snapshots-unwatched",
                        "the kernel's events are heard no longer: {error}; a virtual machine that goes on from a snapshot isn't noticed"
                    );
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// Whether a uevent (fields that end with a zero byte) says that the generation id is another one.
fn is_of_a_new_generation(uevent: &[u8]) -> bool {
    uevent.split(|byte| *byte == 0).any(|field| field == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_uevent_of_a_new_generation_is_told_from_all_others() {
        let vmgenid = b"change@/devices/platform/QEMUVGID:00\0ACTION=change\0\
            DEVPATH=/devices/platform/QEMUVGID:00\0SUBSYSTEM=platform\0NEW_VMGENID=1\0SEQNUM=4711\0";
        assert!(is_of_a_new_generation(vmgenid));
        let others: [&[u8]; 4] = [
            b"",
            b"add@/devices/virtual/net/veth0\0ACTION=add\0INTERFACE=veth0\0",
            b"change@/NEW_VMGENID=1\0ACTION=change\0X=NEW_VMGENID=1\0",
            b"change@/devices\0NEW_VMGENID=11\0",
        ];
        for other in others {
            assert!(!is_of_a_new_generation(other));
        }
    }

    #[test]
    fn the_kernel_lets_us_listen_and_while_nothing_is_resumed_nothing_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watch = SnapshotWatch::start();
            assert!(timeout(Duration::from_millis(50), watch.was_resumed()).await.is_err());
        });
    }
}
