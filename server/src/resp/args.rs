//! The arguments of one request, borrowed from wherever its bytes are.
//!
//! A request in a read buffer, an inline line after unquoting and a command in a log entry all have
//! the same shape: bytes, and the span of every argument within them. Argument 0 is the command's
//! name.

/// Where one argument lies, in bytes of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// The arguments of one request.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// What the spans point into.
    bytes: &'a [u8],
    /// One for each argument, in order.
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Arguments at `spans` of `bytes`.
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        debug_assert!(
            spans.iter().all(|span| span.end <= bytes.len()),
            "spans lie within the bytes"
        );
        Self { bytes, spans }
    }

    /// How many, the name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is not even a name.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `at`.
    ///
    /// # Panics
    ///
    /// If there are not so many: the arity was checked before.
    pub fn at(&self, at: usize) -> &'a [u8] {
        let span = self.spans[at];
        &self.bytes[span.start..span.end]
    }

    /// The argument at `at`, or none.
    pub fn get(&self, at: usize) -> Option<&'a [u8]> {
        self.spans.get(at).map(|span| &self.bytes[span.start..span.end])
    }

    /// The arguments from `at` on.
    pub fn from(&self, at: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        let spans = &self.spans[at.min(self.spans.len())..];
        spans.iter().map(move |span| &bytes[span.start..span.end])
    }

    /// The arguments from `at` on, of which the first is then the name.
    pub fn rest(&self, at: usize) -> Args<'a> {
        Args { bytes: self.bytes, spans: &self.spans[at.min(self.spans.len())..] }
    }

    /// Whether the argument at `at` is this word, in upper or lower case.
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.get(at).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }
}
