//! Somebody else's ruleset in a file, which goes in with the table.
//!
//! # Security considerations
//! - Its name becomes a part of a script for nft: what could end the text there, or stand for other files, is refused.
//!   What is in the file is the admin's business, as it is with `nft -f`.

use std::str::FromStr;

use thiserror::Error;

/// The name of such a file: absolute, and nothing in it that nft(8) takes for more than a letter of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included(String);

/// Why that is no such name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotIncluded {
    /// nft would look for it in its own folders first.
    #[error("give it from the root on, as /etc/nftables.conf")]
    Relative,
    /// nft takes this for a pattern, or for the name's end.
    #[error("nft can't take a name with {0:?} in it: rename the file")]
    Letter(char),
}

impl Included {
    /// The line that has nft read it: nft(8), "include".
    #[must_use]
    pub fn statement(&self) -> String {
        format!("include \"{}\"\n", self.0)
    }
}

impl FromStr for Included {
    type Err = NotIncluded;

    fn from_str(text: &str) -> Result<Self, NotIncluded> {
        if !text.starts_with('/') {
            return Err(NotIncluded::Relative);
        }
        let means_more = |c: &char| c.is_control() || "\"\\*?[]{}~$".contains(*c);
        match text.chars().find(means_more) {
            Some(letter) => Err(NotIncluded::Letter(letter)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_absolute_and_can_not_end_the_statement_or_stand_for_other_files() {
        let file: Included = "/etc/nft tables/a-b.conf".parse().unwrap();
        assert_eq!(file.statement(), "include \"/etc/nft tables/a-b.conf\"\n");
        for relative in ["", "nftables.conf", "./a", "-"] {
            assert_eq!(relative.parse::<Included>(), Err(NotIncluded::Relative), "{relative:?}");
        }
        for (name, letter) in [("/a\"; flush ruleset", '"'), ("/a\nb", '\n'), ("/etc/*.nft", '*')] {
            assert_eq!(name.parse::<Included>(), Err(NotIncluded::Letter(letter)), "{name:?}");
        }
    }
}
