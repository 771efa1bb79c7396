//! Settings of a log.

use std::hash::{BuildHasher, RandomState};

use crate::envelope::ENVELOPE_LEN;
use crate::frame::{BLOCK_LEN, GROUP_HEADER_LEN};
use crate::parts;
use crate::record::{PAYLOAD_LEN_MAX, RECORD_HEADER_LEN};
use crate::segment::segment_room;
use crate::{Error, Keyring, Result, SpareDirectory};

/// Settings of a log. The defaults suit a server with an NVMe disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one segment file; a multiple of 4096, from 64 KiB to 4 GiB. Default 64 MiB.
    pub segment_size: u64,
    /// How many spare segments are kept ready beside the one reserved for a failing disk. Default 2.
    pub spares: usize,
    /// How many durable writes are in flight at the most; 0 takes the disk's own bound, and the bound
    /// is never exceeded. Default 0.
    pub depth_max: usize,
    /// How many are in flight while enough waits. 0 lets the log find the number at which most bytes are
    /// acknowledged per second, while it runs; another one is kept to, within the bound. Default 0.
    pub depth: usize,
    /// Durable writes per second beyond which none goes out beside another one in flight: a soft ceiling
    /// for disks whose operations are counted or paid for. One at a time always goes. 0 for no
    /// ceiling. Default 0.
    pub iops_max: u32,
    /// A group of this many bytes is sealed, in bytes. Default 1 MiB.
    pub group_size_max: usize,
    /// Bytes of records that may wait for the disk; appends wait beyond that. Default 64 MiB.
    pub pending_size_max: usize,
    /// Whether the log runs a thread of its own that prepares spares and marks an idle tail. Without
    /// it the caller does that with [`Wal::prepare`](crate::Wal::prepare). Default true.
    pub background: bool,
    /// Whether durable writes are never made by the threads that wait but complete by themselves and
    /// are announced at [`Wal::completion_fd`](crate::Wal::completion_fd): for an event loop that
    /// drives the log by [`Wal::pump`](crate::Wal::pump). Default false.
    pub events: bool,
    /// Bytes that the log's files may have together; 0 for no bound. At the bound appends are refused with
    /// [`Error::Capped`] until the log is trimmed. Default 0.
    pub log_size_max: u64,
    /// A directory on another disk, in which the log goes on when its own disk fails a write. A log that has
    /// one is not opened without it. Default none.
    pub spare: Option<SpareDirectory>,
    /// The log also goes on there when a write to its own disk has not ended after so many milliseconds; 0
    /// for never. Writes are then made by threads that nobody waits for. Default 0.
    pub stall_millis: u64,
    /// Whether groups are compressed (LZ4) where that saves a block and an eighth at least. It is done
    /// by whoever submits a group, while the log is locked: it costs processor time to save bytes on the disk. A
    /// log is read whatever this says. Default false.
    pub compress: bool,
    /// The keys that groups are encrypted with, and read with. Without them a log that was encrypted is not
    /// opened, or not read as far back: [`Error::KeyMissing`]. Headers, footers, positions and sizes are
    /// never encrypted. Default none.
    pub encryption: Option<Keyring>,
    /// The identity given to a log that is created; drawn anew by default.
    pub new_log_id: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            spares: 2,
            depth_max: 0,
            depth: 0,
            iops_max: 0,
            group_size_max: 1 << 20,
            pending_size_max: 64 << 20,
            background: true,
            events: false,
            log_size_max: 0,
            spare: None,
            stall_millis: 0,
            compress: false,
            encryption: None,
            new_log_id: RandomState::new().hash_one(std::process::id()) | 1,
        }
    }
}

impl Options {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the setting and its bounds.
    pub fn validate(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::InvalidOption { reason });
        if !(64 << 10..=4 << 30).contains(&self.segment_size) {
            return refuse(format!("segment_size {} is not 64 KiB to 4 GiB", self.segment_size));
        }
        if !self.segment_size.is_multiple_of(BLOCK_LEN) {
            return refuse(format!("segment_size {} is no multiple of 4096", self.segment_size));
        }
        if self.spares == 0 || self.spares > 64 {
            return refuse(format!("spares {} is not 1 to 64", self.spares));
        }
        if !(4096..=256 << 20).contains(&self.group_size_max) {
            return refuse(format!(
                "group_size_max {} is not 4 KiB to 256 MiB",
                self.group_size_max
            ));
        }
        if self.pending_size_max < self.group_size_max {
            return refuse("pending_size_max is under group_size_max".into());
        }
        if self.stall_millis > 0 && self.spare.is_none() {
            return refuse("stall_millis needs a spare directory to go on in".into());
        }
        // The active segment, the spares, the one kept for a failing write, and one to be trimmed.
        let files = u64::try_from(self.spares + 3).unwrap_or(u64::MAX);
        if self.log_size_max > 0 && self.log_size_max / self.segment_size < files {
            let size_max = self.log_size_max;
            return refuse(format!("log_size_max {size_max} has no room for {files} segments"));
        }
        Ok(())
    }

    /// Bytes that a group's body may have beside its records.
    pub(crate) fn envelope_len(&self) -> usize {
        if self.encryption.is_some() { ENVELOPE_LEN } else { 0 }
    }

    /// The largest payload that fits into a segment of this size, in bytes.
    pub fn payload_len_max(&self) -> usize {
        // What stands before a group's records, and the padding behind them.
        const _: () = assert!(GROUP_HEADER_LEN + ENVELOPE_LEN < 4096, "that is less than a block");
        let room = segment_room(self.segment_size) - BLOCK_LEN;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        // A payload in parts has their checksums behind it.
        let room = room - RECORD_HEADER_LEN;
        PAYLOAD_LEN_MAX.min(room - parts::table_len(room))
    }
}
