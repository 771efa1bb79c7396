//! One edit of the manifest, as a record's payload. See `docs/format/manifest.md`.
//!
//! ```text
//! 0        8          16        24      25    32           40        48      52      56      60
//! +--------+----------+---------+-------+-----+------------+---------+-------+------+-------+---
//! | number | sequence | durable | flags | 0   | next table | flushed | state | key- | added | ...
//! |        |          |         |       |     |            |         | len   |spaces|       |
//! +--------+----------+---------+-------+-----+------------+---------+-------+------+-------+---
//! ```
//!
//! The number of the manifest and the sequence number stand in the payload, so the record's checksum
//! covers the position: a record that was left behind, or was written to the wrong place, is not
//! taken for the one that belongs there. `durable` is the last record that was known to be durable
//! when this one was written; it tells a torn tail from corruption. A *marker* ends after the flags
//! and changes nothing.

use super::LEVELS;
use super::replay::NUMBER_MAX;
use crate::keyspace::{KEYSPACE_NAME_LEN_MAX, Keyspace};
use crate::table::{TableId, TableMeta};
use crate::{Index, KEY_LEN_MAX, KeyspaceId};

const FLAG_MARKER: u8 = 1;
const FLAG_FLUSHED: u8 = 2;
/// Bytes of every payload: the number, two sequence numbers, the flags and zeros.
const PREFIX_LEN: usize = 32;
/// The largest state of a machine, in bytes: what [`Machine::state`](crate::Machine::state) allows,
/// with room.
pub(crate) const MACHINE_STATE_LEN_MAX: usize = 8 << 20;
/// The longest full key, in bytes.
const FULL_KEY_LEN_MAX: usize = crate::key::KEYSPACE_LEN + KEY_LEN_MAX;

/// Where a record of the manifest belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the manifest file.
    pub number: u64,
    /// The number of the record, counted on from manifest to manifest.
    pub sequence: u64,
}

/// What is flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Everything up to here is in tables.
    pub index: Index,
    /// The machine's state as of that index.
    pub machine_state: Vec<u8>,
}

/// An atomic change of the set of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    /// A number that no table has had yet, nor any larger one.
    pub next_table: u64,
    /// How far the tables go, if that changes.
    pub flushed: Option<Flushed>,
    /// Keyspaces that were created or dropped since.
    pub keyspaces: Vec<Keyspace>,
    /// Tables that no longer count, with their level. Takes effect before `added`.
    pub removed: Vec<(u8, TableId)>,
    /// Tables that count from now on, with their level.
    pub added: Vec<(u8, TableMeta)>,
}

/// A record of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Where it belongs.
    pub place: Place,
    /// The last record that was known to be durable when this one was written.
    pub durable: u64,
    /// What it says.
    pub said: Said,
}

/// What a record of the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The records before this one were durable when it was written.
    Marker,
    /// The set of files changes.
    Edit(Edit),
}

/// The payload of a marker.
pub(crate) fn encode_marker(place: Place, durable: u64) -> Vec<u8> {
    prefix(place, durable, FLAG_MARKER)
}

fn prefix(place: Place, durable: u64, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&place.number.to_le_bytes());
    bytes.extend_from_slice(&place.sequence.to_le_bytes());
    bytes.extend_from_slice(&durable.to_le_bytes());
    bytes.push(flags);
    bytes.resize(PREFIX_LEN, 0);
    bytes
}

fn put_u64(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("counts and lengths of an edit are far below 2^32");
    bytes.extend_from_slice(&count.to_le_bytes());
}

impl Edit {
    /// The payload of this edit's record.
    pub(crate) fn encode(&self, place: Place, durable: u64) -> Vec<u8> {
        let flags = if self.flushed.is_some() { FLAG_FLUSHED } else { 0 };
        let mut bytes = prefix(place, durable, flags);
        let (index, state) = match &self.flushed {
            Some(flushed) => (flushed.index, flushed.machine_state.as_slice()),
            None => (Index(0), &[][..]),
        };
        put_u64(&mut bytes, self.next_table);
        put_u64(&mut bytes, index.0);
        put_count(&mut bytes, state.len());
        put_count(&mut bytes, self.keyspaces.len());
        put_count(&mut bytes, self.added.len());
        put_count(&mut bytes, self.removed.len());
        bytes.extend_from_slice(state);
        for keyspace in &self.keyspaces {
            bytes.extend_from_slice(&keyspace.id.0.to_le_bytes());
            put_count(&mut bytes, keyspace.name.len());
            put_u64(&mut bytes, keyspace.created.0);
            put_u64(&mut bytes, keyspace.dropped.map_or(0, |index| index.0));
            bytes.extend_from_slice(keyspace.name.as_bytes());
        }
        for (level, table) in &self.added {
            put_u64(&mut bytes, table.id.0);
            put_u64(&mut bytes, table.written_as.0);
            bytes.extend_from_slice(&u32::from(*level).to_le_bytes());
            bytes.extend_from_slice(&table.checksum.to_le_bytes());
            put_u64(&mut bytes, table.size);
            put_u64(&mut bytes, table.cells);
            put_u64(&mut bytes, table.tombstones);
            put_u64(&mut bytes, table.index_min.0);
            put_u64(&mut bytes, table.index_max.0);
            put_count(&mut bytes, table.smallest.len());
            put_count(&mut bytes, table.largest.len());
            bytes.extend_from_slice(&table.smallest);
            bytes.extend_from_slice(&table.largest);
        }
        for (level, id) in &self.removed {
            put_u64(&mut bytes, id.0);
            put_u64(&mut bytes, u64::from(*level));
        }
        bytes
    }
}

/// What a payload tells.
///
/// # Errors
///
/// What is wrong with it, as text for a report of damage.
pub(crate) fn decode(payload: &[u8]) -> Result<Told, String> {
    let mut input = Input { bytes: payload, offset: 0 };
    let place = Place { number: input.u64()?, sequence: input.u64()? };
    let durable = input.u64()?;
    if place.sequence > NUMBER_MAX {
        return Err(format!("record {}, a number that is never given", place.sequence));
    }
    if durable >= place.sequence {
        return Err(format!("record {} that was durable before it was written", place.sequence));
    }
    let flags = input.take(1)?[0];
    if input.take(7)?.iter().any(|byte| *byte != 0) {
        return Err("a reserved byte that is not zero".into());
    }
    let said = match flags {
        FLAG_MARKER => Said::Marker,
        0 | FLAG_FLUSHED => Said::Edit(decode_edit(&mut input, flags == FLAG_FLUSHED)?),
        _ => return Err(format!("unknown flags {flags:#04x}")),
    };
    if input.offset != payload.len() {
        return Err(format!("{} bytes after the end", payload.len() - input.offset));
    }
    Ok(Told { place, durable, said })
}

fn decode_edit(input: &mut Input<'_>, is_flushed: bool) -> Result<Edit, String> {
    let next_table = input.u64()?;
    let index = Index(input.u64()?);
    let state_len = input.len(MACHINE_STATE_LEN_MAX)?;
    let [keyspaces, added, removed] = [input.u32()?, input.u32()?, input.u32()?];
    let machine_state = input.take(state_len)?.to_vec();
    if !is_flushed && (index.0 != 0 || state_len != 0) {
        return Err("a flushed index without its flag".into());
    }
    let mut edit = Edit { next_table, ..Edit::default() };
    edit.flushed = is_flushed.then_some(Flushed { index, machine_state });
    for _ in 0..keyspaces {
        edit.keyspaces.push(decode_keyspace(input)?);
    }
    for _ in 0..added {
        edit.added.push(decode_table(input)?);
    }
    for _ in 0..removed {
        let id = TableId(input.u64()?);
        edit.removed.push((level(input.u64()?)?, id));
    }
    Ok(edit)
}

fn decode_keyspace(input: &mut Input<'_>) -> Result<Keyspace, String> {
    let id = KeyspaceId(input.u32()?);
    let name_len = input.len(KEYSPACE_NAME_LEN_MAX)?;
    let created = Index(input.u64()?);
    let dropped = Some(Index(input.u64()?)).filter(|index| index.0 != 0);
    let name = String::from_utf8(input.take(name_len)?.to_vec())
        .map_err(|_| "a keyspace's name that is not UTF-8".to_owned())?;
    Ok(Keyspace { id, name, created, dropped })
}

fn decode_table(input: &mut Input<'_>) -> Result<(u8, TableMeta), String> {
    let id = TableId(input.u64()?);
    let written_as = TableId(input.u64()?);
    let level = level(u64::from(input.u32()?))?;
    let checksum = input.u32()?;
    let [size, cells, tombstones] = [input.u64()?, input.u64()?, input.u64()?];
    let [index_min, index_max] = [Index(input.u64()?), Index(input.u64()?)];
    let smallest_len = input.len(FULL_KEY_LEN_MAX)?;
    let largest_len = input.len(FULL_KEY_LEN_MAX)?;
    let smallest = input.take(smallest_len)?.to_vec();
    let largest = input.take(largest_len)?.to_vec();
    if smallest > largest || index_min > index_max {
        return Err(format!("table {} with bounds in the wrong order", id.0));
    }
    if smallest.len() < crate::key::KEYSPACE_LEN || largest.len() < crate::key::KEYSPACE_LEN {
        return Err(format!("table {} with a key that is too short", id.0));
    }
    let table = TableMeta {
        id,
        written_as,
        size,
        checksum,
        smallest,
        largest,
        index_min,
        index_max,
        cells,
        tombstones,
    };
    Ok((level, table))
}

/// Bytes being decoded.
struct Input<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..len) else {
            return Err(format!("{} bytes at {} where {len} belong", rest.len(), self.offset));
        };
        self.offset += len;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(word))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(word))
    }

    fn len(&mut self, len_max: usize) -> Result<usize, String> {
        let len = self.u32()?;
        match usize::try_from(len) {
            Ok(len) if len <= len_max => Ok(len),
            _ => Err(format!("a length of {len} over {len_max}")),
        }
    }
}

fn level(level: u64) -> Result<u8, String> {
    match u8::try_from(level) {
        Ok(level) if usize::from(level) < LEVELS => Ok(level),
        _ => Err(format!("level {level} where {LEVELS} are known")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Edit {
        let table = TableMeta {
            id: TableId(7),
            written_as: TableId(5),
            size: 4096,
            checksum: 0x1234_5678,
            smallest: vec![0, 0, 0, 0, b'a'],
            largest: vec![0, 0, 0, 1, b'z'],
            index_min: Index(3),
            index_max: Index(41),
            cells: 39,
            tombstones: 2,
        };
        let keyspace = Keyspace {
            id: KeyspaceId(1),
            name: "users".into(),
            created: Index(5),
            dropped: Some(Index(40)),
        };
        Edit {
            next_table: 8,
            flushed: Some(Flushed { index: Index(41), machine_state: b"state".to_vec() }),
            keyspaces: vec![keyspace],
            removed: vec![(0, TableId(2)), (1, TableId(3))],
            added: vec![(1, table)],
        }
    }

    #[test]
    fn an_edit_is_decoded_as_it_was_encoded_and_no_cut_of_it_is() {
        let place = Place { number: 3, sequence: 17 };
        for edit in [sample(), Edit::default()] {
            let bytes = edit.encode(place, 12);
            let said = Said::Edit(edit);
            assert_eq!(decode(&bytes).unwrap(), Told { place, durable: 12, said });
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        let told = Told { place, durable: 16, said: Said::Marker };
        assert_eq!(decode(&encode_marker(place, 16)).unwrap(), told);
    }

    /// Describing a manifest counted on from the number of any record, and stopped at the last one.
    #[test]
    fn a_record_of_a_number_that_is_never_given_is_refused() {
        let place = Place { number: 3, sequence: u64::MAX };
        assert!(decode(&encode_marker(place, 2)).unwrap_err().contains("never given"));
    }

    #[test]
    fn no_flipped_bit_makes_the_decoder_panic() {
        let bytes = sample().encode(Place { number: 3, sequence: 17 }, 16);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&damaged);
        }
    }
}
