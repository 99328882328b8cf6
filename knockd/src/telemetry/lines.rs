//! Events as lines, each put into the queue as a whole.

use std::{io, sync::Arc};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::queue::{Message, Queue};
use crate::{clock, escape::LogLine};

/// Takes a line at a time.
pub(super) struct Lines(pub(super) Arc<Queue>);

/// Takes one line, whose event has this level.
pub(super) struct Line<'q> {
    queue: &'q Queue,
    level: Level,
}

impl<'q> MakeWriter<'q> for Lines {
    type Writer = LogLine<Line<'q>>;

    fn make_writer(&'q self) -> Self::Writer {
        LogLine(Line { queue: &self.0, level: Level::INFO })
    }

    fn make_writer_for(&'q self, event: &Metadata<'_>) -> Self::Writer {
        LogLine(Line { queue: &self.0, level: *event.level() })
    }
}

impl io::Write for Line<'_> {
    /// Takes all of it: the layer hands over a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.put(self.level, Message { at: clock::now().utc, bytes: line.to_vec() });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
