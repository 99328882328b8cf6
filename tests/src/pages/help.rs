//! What stands in `--help` below the options: examples, exit status, environment.

use clap::Command;

use super::manual::{prose, verbatim};

/// Its blocks, each with its heading; the first may have none.
pub(super) struct Help {
    blocks: Vec<Block>,
}

struct Block {
    /// As `Examples`; empty for text that has none.
    heading: String,
    lines: Vec<String>,
}

impl Help {
    /// What a command's `--help` ends with.
    pub(super) fn of(command: &Command) -> Self {
        let text = command
            .get_after_long_help()
            .or_else(|| command.get_after_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut blocks: Vec<Block> = Vec::new();
        for line in text.lines() {
            let heading = line.strip_suffix(':').filter(|line| !line.starts_with(' '));
            match (heading, blocks.last_mut()) {
                (Some(heading), _) => {
                    blocks.push(Block { heading: heading.to_owned(), lines: Vec::new() });
                }
                // A line that isn't indented ends a block of lines that are.
                (None, Some(block)) if block.heading.is_empty() || is_within(line) => {
                    block.lines.push(line.to_owned());
                }
                (None, _) => {
                    blocks.push(Block { heading: String::new(), lines: vec![line.to_owned()] });
                }
            }
        }
        Self { blocks }
    }

    /// The block whose heading begins so, which is then told.
    pub(super) fn take(&mut self, heading: &str) -> String {
        let is_it = |block: &Block| match heading {
            "" => block.heading.is_empty(),
            _ => block.heading.starts_with(heading),
        };
        let at = self.blocks.iter().position(is_it);
        let at = at.unwrap_or_else(|| panic!("--help has nothing under {heading:?}"));
        self.blocks.remove(at).text()
    }

    /// All blocks with their headings.
    pub(super) fn all(&self) -> String {
        let told = |block: &Block| match block.heading.as_str() {
            "" => block.text(),
            heading => format!(".PP\n{}\n{}", prose(&format!("{heading}:")), block.text()),
        };
        self.blocks.iter().map(told).collect()
    }

    /// Fails if there is one that nobody asked for.
    pub(super) fn assert_all_told(&self, page: &str) {
        let untold: Vec<&str> = self.blocks.iter().map(|block| block.heading.as_str()).collect();
        assert!(untold.is_empty(), "{page} leaves out of --help: {untold:?}");
    }
}

impl Block {
    fn text(&self) -> String {
        let lines = self.lines.iter().map(|line| line.trim_end());
        if self.heading.is_empty() {
            return lines
                .map(|line| if line.is_empty() { ".PP\n".to_owned() } else { prose(line) + "\n" })
                .fold(".PP\n".to_owned(), |text, line| text + &line)
                .trim_end_matches(".PP\n")
                .to_owned();
        }
        let lines: Vec<&str> = lines.map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        verbatim(lines[..end].iter().copied())
    }
}

fn is_within(line: &str) -> bool {
    line.is_empty() || line.starts_with(' ')
}
