//! A full disk keeps no log from being opened, also where nothing can be tried or remembered.
//!
//! The disk is a file system in memory of a few pages, in a name space of this test's own: it starts itself there.
//! Where the system does not allow that the test says so and ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use strandline_wal::disk::{RealDisk, VERDICT_FILE};
use strandline_wal::{Lsn, Options, Wal};

/// Names the directory of the full disk, to the process that is to open it.
const ROOM: &str = "STRANDLINE_FULL_DISK";

/// Mounts the disk and goes on as the program that is named behind the directory.
const MOUNT: &str = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 77; shift; exec \"$@\"";

#[test]
fn a_full_disk_that_can_keep_no_verdict_is_opened() {
    if let Some(dir) = std::env::var_os(ROOM) {
        return fill_and_open(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_that_can_keep_no_verdict_is_opened"])
        .env(ROOM, dir.path())
        .output();
    match ran {
        Ok(ran) if ran.status.success() => {
            let said = String::from_utf8_lossy(&ran.stdout).into_owned();
            assert!(said.contains("1 passed"), "it was not run: {said}");
        }
        Ok(ran) if ran.status.code() == Some(101) => {
            panic!("{}", String::from_utf8_lossy(&ran.stdout));
        }
        other => eprintln!("skipped: no name space of its own, {other:?}"),
    }
}

fn open(dir: &Path) -> strandline_wal::Result<Wal> {
    let disk = RealDisk::open(dir, None)?;
    let options = Options { segment_size: 64 << 10, spares: 1, ..Options::default() };
    Ok(Wal::open(Arc::new(disk), dir, Options { background: false, ..options })?.0)
}

fn fill_and_open(room: &Path) {
    // What is found here is known in this process, for all directories of the disk.
    let [first, second] = ["first", "second"].map(|name| room.join(name));
    for dir in [&first, &second] {
        let wal = open(dir).unwrap();
        let lsn = wal.append(b"kept").unwrap();
        wal.wait(lsn).unwrap();
        wal.close().unwrap();
    }
    fs::remove_file(second.join(VERDICT_FILE)).unwrap();
    let mut filler = fs::File::create(room.join("filler")).unwrap();
    for dir in [&first, &second, &second] {
        // Once more each time: what a closed log gave back is room for a verdict.
        while filler.write_all(&[1; 4096]).is_ok() {}
        let wal = open(dir).unwrap();
        assert_eq!(wal.last(), Lsn(1));
        let records = wal.reader(Lsn(1)).next_records().unwrap().unwrap();
        assert_eq!(records.iter().next().unwrap().unwrap().1.payload, b"kept");
        wal.close().unwrap();
    }
    let kept = fs::read(second.join(VERDICT_FILE)).unwrap_or_default();
    assert!(kept.len() < 4096, "there was room for it");
}
