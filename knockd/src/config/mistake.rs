//! What is wrong with a configuration: where, what, and what to write or do instead.
//!
//! # Security considerations
//! No mistake ever shows a key or a part of one. A value of a file is named in a message only after it
//! was parsed into its type (a port, a network, a name), which a key's text can't be; nothing else of a
//! file's text gets in, and neither do messages of the TOML parser that quote the line at fault.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::commands::{Exit, Failure};

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file or folder that it is in.
    pub file: PathBuf,
    /// The line in the file, from 1; `None` where it is about the file as a whole.
    pub line: Option<u32>,
    /// The key that it is about, as `grant.open-for`; empty where it is about the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write, or what to run: a clause that begins with a verb.
    pub instead: String,
    /// What kind of thing is wrong.
    pub kind: MistakeKind,
}

/// What kind of thing is wrong, which decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MistakeKind {
    /// What a file says.
    Content,
    /// Who owns a file or folder, or who else can read or write it.
    Permission,
    /// The file isn't there.
    NoInput,
    /// The file can't be read.
    Io,
}

impl Mistake {
    /// A mistake about a file or folder as a whole.
    pub(crate) fn of_file(
        file: &Path,
        kind: MistakeKind,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            what: what.into(),
            instead: instead.into(),
            kind,
        }
    }

    /// A mistake in what a file says at a line, about a key.
    pub(crate) fn at(
        file: &Path,
        line: u32,
        key: &str,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        let mistake = Self::of_file(file, MistakeKind::Content, what, instead);
        Self { line: Some(line), key: key.to_owned(), ..mistake }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}; {}", self.what, self.instead)
    }
}

/// Every mistake of a configuration, by file and line; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes in the order of the files and their lines; `None` if there are none.
    pub(crate) fn sorted(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// Just this one.
    pub(crate) fn one(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }

    /// The mistakes, by file and line.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// The exit status that they stand for: that of their kind where all are of one, else
    /// [`Exit::Config`].
    #[must_use]
    pub fn exit(&self) -> Exit {
        let all = |kind| self.iter().all(|mistake| mistake.kind == kind);
        if all(MistakeKind::Permission) {
            Exit::NoPerm
        } else if all(MistakeKind::NoInput) {
            Exit::NoInput
        } else if all(MistakeKind::Io) {
            Exit::IoErr
        } else {
            Exit::Config
        }
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(mistakes.exit(), mistakes.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_that_of_the_kind_that_all_mistakes_share() {
        use MistakeKind::{Content, Io, NoInput, Permission};
        for (kinds, exit) in [
            (&[Content][..], Exit::Config),
            (&[Permission, Permission], Exit::NoPerm),
            (&[Permission, Content], Exit::Config),
            (&[NoInput], Exit::NoInput),
            (&[Io], Exit::IoErr),
            (&[NoInput, Permission], Exit::Config),
        ] {
            let mistakes = kinds
                .iter()
                .map(|kind| Mistake::of_file(Path::new("f"), *kind, "wrong", "mend it"))
                .collect();
            assert_eq!(Mistakes::sorted(mistakes).unwrap().exit(), exit, "{kinds:?}");
        }
        assert_eq!(Mistakes::sorted(Vec::new()), None);
    }
}
