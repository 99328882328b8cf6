//! A key of the configuration, and what a file says of it.

/// A key of the configuration.
pub(super) struct Key {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// A value as one would write it.
    pub(super) example: &'static str,
}

impl Key {
    pub(super) const fn new(name: &'static str, example: &'static str) -> Self {
        Self { name, example }
    }

    /// What to write where nothing better is known.
    pub(super) fn instead(&self) -> String {
        format!("write {} = {}", self.name, self.example)
    }
}

/// A value, and the byte of the file that it begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// What a section says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field<T> {
    /// Nothing.
    Absent,
    /// Something wrong, which is reported already.
    Wrong,
    /// This.
    Is(At<T>),
}

impl<T> Field<T> {
    /// What it says, or this where it says nothing; `None` if it is wrong.
    pub(super) fn or(self, default: T) -> Option<At<T>> {
        match self {
            Self::Absent => Some(At { value: default, at: 0 }),
            Self::Wrong => None,
            Self::Is(value) => Some(value),
        }
    }

    /// The same with another value.
    pub(super) fn map<U>(self, with: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Wrong => Field::Wrong,
            Self::Is(At { value, at }) => Field::Is(At { value: with(value), at }),
        }
    }

    /// What it says, if it says something right.
    pub(super) fn ok(self) -> Option<At<T>> {
        match self {
            Self::Absent | Self::Wrong => None,
            Self::Is(value) => Some(value),
        }
    }
}
