//! The content of a sealed file.
//!
//! On a real disk the bytes are read when they are looked at. One that cannot be read then ends the process, by
//! `SIGBUS`: there is nobody to give an error to. So whoever can do something about it [touches](Map::touch) the bytes
//! first, which gives the error. What was touched may be dropped from memory and read again at any time, so this
//! is no guarantee; but a process that was ended so is told when it touches the same bytes the next time.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::Result;

/// Brings a range of bytes into memory.
type Touch = dyn Fn(Range<usize>) -> Result<()> + Send + Sync;

/// The bytes of a sealed file, shared: mapped on a real disk, copied on a simulated one.
#[derive(Clone)]
pub struct Map {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// None if all of them are in memory.
    touch: Option<Arc<Touch>>,
}

impl Map {
    /// Wraps bytes that do not change any more.
    pub fn new(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        Self { bytes, touch: None }
    }

    /// As [`new`](Map::new), of bytes that are read when they are looked at.
    pub(super) fn with_touch(
        bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
        touch: impl Fn(Range<usize>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { bytes, touch: Some(Arc::new(touch)) }
    }

    /// Brings these bytes into memory, as far as there are any, so that they can be looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) with the place that cannot be read.
    pub fn touch(&self, range: Range<usize>) -> Result<()> {
        let range = range.start..range.end.min(self.len());
        match &self.touch {
            Some(touch) if !range.is_empty() => touch(range),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Map").field("len", &self.len()).finish()
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}
