//! A file in memory, on a disk that can run full, or a machine that can stop, in the middle of a write.

use std::{
    cell::{Cell, RefCell},
    io,
    os::unix::fs::FileExt,
    path::Path,
    rc::Rc,
};

use knockd::journal::StateFile;

#[derive(Clone)]
pub(super) struct Disk {
    content: Rc<RefCell<Vec<u8>>>,
    /// How many more bytes it takes.
    room: Rc<Cell<usize>>,
    /// Whether what was last written at its start is there in part only.
    torn_start: Rc<Cell<bool>>,
}

impl Disk {
    /// A file of this content, with room for anything.
    pub(super) fn new(content: &[u8]) -> Self {
        Self {
            content: Rc::new(RefCell::new(content.to_vec())),
            room: Rc::new(Cell::new(usize::MAX)),
            torn_start: Rc::default(),
        }
    }

    /// From here on it takes so many bytes.
    pub(super) fn leave_room(&self, bytes: usize) {
        self.room.set(bytes);
    }

    pub(super) fn has_torn_start(&self) -> bool {
        self.torn_start.get()
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.content.borrow().clone()
    }
}

impl StateFile for Disk {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_at(&self, _: &Path) -> bool {
        true
    }
}

impl FileExt for Disk {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let count = bytes.len().min(self.room.get());
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.set(self.room.get() - count);
        if offset == 0 {
            self.torn_start.set(count < bytes.len());
        }
        let offset = usize::try_from(offset).expect("the files of these stories are small");
        let mut content = self.content.borrow_mut();
        let end = content.len().max(offset + count);
        content.resize(end, 0);
        content[offset..offset + count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }
}
