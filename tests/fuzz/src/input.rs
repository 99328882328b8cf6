//! Reads an input field by field, from its front; what is behind its end reads as zero.

use arbitrary::Unstructured;

/// An input, while it is read.
pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number of any width, little-endian.
    pub(crate) fn number<T: arbitrary::Arbitrary<'a>>(&mut self) -> T {
        self.0.arbitrary().expect("numbers never run out")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.number()
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn one_of<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }

    /// The next bytes, this many or as many as there are.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let count = count.min(self.0.len());
        self.0.bytes(count).expect("there are as many")
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}
