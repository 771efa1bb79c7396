//! The content of a sealed file.

use std::ops::Deref;
use std::sync::Arc;

/// The bytes of a sealed file, shared: mapped on a real disk, copied on a simulated one.
#[derive(Clone)]
pub struct Map {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Map {
    /// Wraps bytes that do not change any more.
    pub fn new(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        Self { bytes }
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
