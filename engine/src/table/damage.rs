//! Bytes that are not what was written, before a file's name is put to them.
//!
//! Decoders work on slices and know no path. They say what is wrong as [`Damage`]; whoever has the
//! path turns it into [`Error::Corruption`](strandline_wal::Error::Corruption).

use std::borrow::Cow;
use std::path::Path;

/// What is wrong, and where in the file.
#[derive(Debug)]
pub(super) struct Damage {
    /// Of the damaged structure, in the file, in bytes.
    pub(super) offset: u64,
    /// What should stand there.
    pub(super) expected: Cow<'static, str>,
    /// What stands there.
    pub(super) found: Cow<'static, str>,
}

impl Damage {
    /// `found` where `expected` belongs.
    pub(super) fn new(
        offset: u64,
        expected: impl Into<Cow<'static, str>>,
        found: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { offset, expected: expected.into(), found: found.into() }
    }

    /// A checksum that does not match.
    pub(super) fn checksum(offset: u64, expected: u32, found: u32) -> Self {
        Self::new(offset, format!("checksum {expected:#010x}"), format!("{found:#010x}"))
    }

    /// The error to be returned for the file `path`.
    pub(super) fn of(self, path: &Path) -> crate::Error {
        crate::Error::Wal(strandline_wal::Error::Corruption {
            path: path.to_path_buf(),
            offset: self.offset,
            expected: self.expected.into_owned(),
            found: self.found.into_owned(),
        })
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "DAMAGED at {}: expected {}, found {}", self.offset, self.expected, self.found)
    }
}

/// Fixed-width numbers out of a slice whose length is known.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    /// The number at `at`.
    ///
    /// # Panics
    ///
    /// If the slice ends before it; callers have checked its length.
    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    /// As [`u16`](Bytes::u16), with four bytes.
    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// As [`u16`](Bytes::u16), with eight bytes.
    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("the caller has checked the length")
    }
}
