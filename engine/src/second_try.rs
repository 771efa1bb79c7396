//! A read that fails is tried a second time, at once, before what is stored there is taken for lost.
//!
//! By then the device and the system have tried for seconds, and a third time would tell no more. What a
//! second one finds is a path to the device that was lost for a moment: a cable, a controller that was
//! reset. To take that for damage would cost a whole state. To open what is stored is to read, also where it is
//! going to be written to. Writes and syncs are never tried again here: see [`crate::manifest`].

use strandline_wal::Result;

/// Reads, and reads again if it [could not be read](strandline_wal::Error::is_unreadable).
///
/// # Errors
///
/// The second error, or one that says something else.
pub(crate) fn twice<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if error.is_unreadable() => read(),
        other => other,
    }
}
