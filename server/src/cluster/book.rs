//! The book of nodes: where the members of a running cluster are reached, as its log has it.
//!
//! Nodes are started with a list (see [`nodes`](super::nodes)). When a member is added, moved or removed,
//! the leader puts the whole list into the log, and from then on the book counts and what the command
//! line says of other nodes does not. The version of a book is the index of its entry: of two books
//! the one with the higher version is the newer, on all nodes alike.
//!
//! It travels three ways, since who does not know the others cannot be told by the log:
//!
//! - with the state of the machine, by entries and in snapshots;
//! - in the first frame of each link, so that a node that was away, that joins, or that keeps no state,
//!   learns it from whoever calls;
//! - in the file `nodes` of the node's directory, replaced as a whole, so that it is there after a
//!   restart.
//!
//! ```text
//! 0       4         6          8          16        24        32
//! +-------+---------+----------+----------+---------+---------+------+
//! | magic | version | reserved | checksum | index   | id last | list |
//! +-------+---------+----------+----------+---------+---------+------+
//! ```
//!
//! Little-endian; the list is text as on the command line. The checksum is the first 8 bytes of the
//! SHA-256 of all that follows it. A file that is damaged is left aside: the book comes again from others.

use std::path::Path;

use sha2::{Digest, Sha256};
use strandline_wal::disk::{Disk, OpenMode, replace_file};

/// The file in the node's directory.
pub const FILE_NAME: &str = "nodes";
/// The longest book: the longest names of the most nodes fit.
pub const BOOK_LEN_MAX: usize = 64 << 10;

const MAGIC: [u8; 4] = *b"SLNB";
const FORMAT: u16 = 1;
const FORMAT_AT: usize = 4;
const RESERVED: usize = FORMAT_AT + 2;
const CHECKSUM: usize = RESERVED + 2;
const INDEX: usize = CHECKSUM + CHECKSUM_LEN;
const ID_LAST: usize = INDEX + 8;
const LIST: usize = ID_LAST + 8;
const CHECKSUM_LEN: usize = 8;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// The index of the entry that brought it; 0 for none.
    pub index: u64,
    /// The highest number that a node ever had. Numbers are not given twice: a node with a lower one
    /// that is not in the list was removed.
    pub id_last: u64,
    /// The nodes, as on the command line.
    pub list: String,
}

impl Book {
    /// As bytes; see the module's documentation.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; LIST];
        bytes[..FORMAT_AT].copy_from_slice(&MAGIC);
        bytes[FORMAT_AT..RESERVED].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[INDEX..ID_LAST].copy_from_slice(&self.index.to_le_bytes());
        bytes[ID_LAST..LIST].copy_from_slice(&self.id_last.to_le_bytes());
        bytes.extend_from_slice(self.list.as_bytes());
        let checksum = checksum(&bytes[INDEX..]);
        bytes[CHECKSUM..INDEX].copy_from_slice(&checksum);
        bytes
    }

    /// None if the bytes are no book, or not whole.
    pub fn decode(bytes: &[u8]) -> Option<Book> {
        let (header, list) = bytes.split_first_chunk::<LIST>()?;
        let is_ours = header[..FORMAT_AT] == MAGIC
            && header[FORMAT_AT..RESERVED] == FORMAT.to_le_bytes()
            && header[RESERVED..CHECKSUM] == [0; 2]
            && header[CHECKSUM..INDEX] == checksum(&bytes[INDEX..]);
        if !is_ours || bytes.len() > BOOK_LEN_MAX {
            return None;
        }
        let list = String::from_utf8(list.to_vec()).ok()?;
        Some(Book { index: number_at(header, INDEX), id_last: number_at(header, ID_LAST), list })
    }

    /// The book in the directory of a node, if there is one that is whole.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Option<Book> {
        let path = dir.join(FILE_NAME);
        let file = disk.open(&path, OpenMode::Read).ok()?;
        let len = usize::try_from(file.len().ok()?).ok().filter(|len| *len <= BOOK_LEN_MAX)?;
        let mut bytes = vec![0; len];
        file.read_at(&mut bytes, 0).ok()?;
        let book = Book::decode(&bytes);
        if book.is_none() {
            tracing::warn!(path = %path.display(), "damaged; the others tell who the nodes are");
        }
        book
    }

    /// Puts it into the directory of a node, durably.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) -> strandline_wal::Result<()> {
        replace_file(disk, &dir.join(FILE_NAME), &self.encode())
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut checksum = [0; CHECKSUM_LEN];
    checksum.copy_from_slice(&digest[..CHECKSUM_LEN]);
    checksum
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use strandline_wal::disk::SimulatedDisk;

    use super::*;

    #[test]
    fn a_book_comes_back_whole_or_not_at_all() {
        let book = Book { index: 1 << 40, id_last: 4, list: "1=a:1@2,4=b:1@2".into() };
        let bytes = book.encode();
        assert_eq!(Book::decode(&bytes), Some(book.clone()));
        for len in 0..bytes.len() {
            assert_eq!(Book::decode(&bytes[..len]), None);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Book::decode(&changed), None, "byte {at}");
        }
        let disk = SimulatedDisk::new(1);
        let dir = Path::new("/node");
        disk.create_dir_all(dir).unwrap();
        assert_eq!(Book::load(&*disk, dir), None);
        book.save(&*disk, dir).unwrap();
        assert_eq!(Book::load(&*disk, dir), Some(book));
    }
}
