//! A manifest as text, for people; as much as can be read of a damaged one.

use std::fmt::Write;
use std::path::Path;

use strandline_wal::disk::Disk;

use super::edit::{Edit, Place, Said, Told};
use super::read_file;
use super::replay::{FORMAT_VERSION, HEADER_LEN, Header, proof_of_durability, said_at};
use crate::Result;

/// Describes the manifest at `path`, record by record. What is damaged is named and stepped over.
///
/// # Errors
///
/// Only if the file cannot be read at all.
pub fn inspect_manifest(disk: &dyn Disk, path: &Path) -> Result<String> {
    let bytes = read_file(disk, path)?;
    Ok(describe(path, &bytes))
}

/// The text for the bytes of a manifest.
pub(super) fn describe(path: &Path, bytes: &[u8]) -> String {
    let mut out = String::new();
    let header = Header::decode(path, bytes);
    line(
        &mut out,
        0,
        match &header {
            Ok(header) => format!(
                "manifest {}, format version {FORMAT_VERSION}, {} base records from sequence {}",
                header.number, header.base_records, header.first_sequence
            ),
            Err(error) => format!("header: {error}"),
        },
    );
    // Without a header every record counts, whatever it says of its place.
    let mut expected = header
        .as_ref()
        .ok()
        .map(|header| Place { number: header.number, sequence: header.first_sequence });
    let mut offset = HEADER_LEN;
    while offset < bytes.len() {
        match said_at(bytes, offset) {
            Ok((Told { place, durable, said }, taken)) => {
                let is_misplaced = expected.is_some_and(|expected| expected != place);
                let note = if is_misplaced { " (does not belong here)" } else { "" };
                let what = match &said {
                    Said::Marker => "marker".to_owned(),
                    Said::Edit(edit) => describe_edit(edit),
                };
                let Place { number, sequence } = place;
                line(
                    &mut out,
                    offset,
                    format!("{number}/{sequence}{note}, durable {durable}: {what}"),
                );
                expected = Some(Place { number, sequence: sequence + 1 });
                offset += taken;
            }
            Err(reason) => {
                let next = (offset + 1..bytes.len()).find(|next| said_at(bytes, *next).is_ok());
                let proof =
                    expected.and_then(|place| proof_of_durability(bytes, offset + 1, place));
                let verdict = if proof.is_some() { "damaged" } else { "torn tail, or damaged" };
                let end = next.unwrap_or(bytes.len());
                line(&mut out, offset, format!("{verdict}, {} bytes: {reason}", end - offset));
                offset = end;
            }
        }
    }
    line(&mut out, bytes.len(), "end".into());
    out
}

fn line(out: &mut String, offset: usize, text: String) {
    writeln!(out, "{offset:08x}  {text}").expect("a string takes what is written");
}

fn describe_edit(edit: &Edit) -> String {
    let mut out = format!("edit, next table {}", edit.next_table);
    let mut item = |text: String| {
        write!(out, "\n            {text}").expect("a string takes what is written");
    };
    if let Some(flushed) = &edit.flushed {
        let len = flushed.machine_state.len();
        item(format!("flushed up to {}, machine state of {len} bytes", flushed.index));
    }
    for keyspace in &edit.keyspaces {
        let dropped = match keyspace.dropped {
            Some(index) => format!(", dropped at {index}"),
            None => String::new(),
        };
        let name = keyspace.name.escape_debug();
        item(format!(
            "keyspace {} \"{name}\" created at {}{dropped}",
            keyspace.id.0, keyspace.created
        ));
    }
    for (level, id) in &edit.removed {
        item(format!("remove table {} from level {level}", id.0));
    }
    for (level, table) in &edit.added {
        item(format!(
            "add table {}, written as {}, to level {level}: {} bytes, crc32 {:08x}, {} cells, \
             {} tombstones, indexes {}..={}, keys {} ..= {}",
            table.id.0,
            table.written_as.0,
            table.size,
            table.checksum,
            table.cells,
            table.tombstones,
            table.index_min,
            table.index_max,
            key(&table.smallest),
            key(&table.largest)
        ));
    }
    out
}

/// A full key, shortened: the keyspace and the start of the user's key.
fn key(full_key: &[u8]) -> String {
    const SHOWN: usize = 24;
    let (keyspace, key) = full_key.split_at(crate::key::KEYSPACE_LEN.min(full_key.len()));
    let number = keyspace.iter().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    let dots = if key.len() > SHOWN { ".." } else { "" };
    format!("{number}:\"{}{dots}\"", key.get(..SHOWN).unwrap_or(key).escape_ascii())
}
