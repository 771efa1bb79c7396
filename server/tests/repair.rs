//! `verify`, `inspect` and `repair` of damaged directories, as an operator runs them.
//!
//! Goal: they say all that can be said, change nothing unasked, and what they mend opens with every entry
//! that was not given up. Method: real stores in temporary directories, the real program, its exit codes
//! and its JSON.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use strandline_engine::{Db, DbOptions, KeyspaceId, group_dir, log_dir};
use strandline_wal::SpareDirectory;
use strandline_wal::disk::RealDisk;

const BLOCK: u64 = 4096;

/// A directory that goes with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("strandline-repair-{}-{number}", std::process::id());
        let dir = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(dir.path()).unwrap();
        dir
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options() -> DbOptions {
    let mut options = DbOptions { background: false, ..DbOptions::default() };
    options.wal.segment_size = 1 << 20;
    options
}

fn key(number: u32) -> Vec<u8> {
    format!("key{number:04}").into_bytes()
}

/// A closed store of 40 entries of 100 KiB; those up to `flushed` are in tables.
fn store(flushed: u32) -> TempDir {
    let dir = TempDir::new();
    fill(dir.path(), flushed, options());
    dir
}

fn fill(dir: &Path, flushed: u32, options: DbOptions) {
    let db = Db::open(dir, options).unwrap();
    for number in 1..=40 {
        let value = vec![u8::try_from(number).unwrap(); 100 << 10];
        db.put(KeyspaceId::DEFAULT, &key(number), &value).unwrap();
        if number == flushed {
            db.flush().unwrap();
        }
    }
    db.close().unwrap();
}

/// The segments in use, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    segments_in(&log_dir(dir))
}

fn segments_in(log: &Path) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "segment") {
            let header = &fs::read(&path).unwrap()[..24];
            if header[6] == 2 {
                found.insert(u64::from_le_bytes(header[16..24].try_into().unwrap()), path);
            }
        }
    }
    found.into_values().collect()
}

fn damage(path: &Path, offset: u64, len: usize) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; len], offset).unwrap();
}

/// Every file of the directory but the lock.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.ends_with("LOCK") => {}
                false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    found
}

/// Runs a verb with `--json`: its exit code and what it said.
fn run(verb: &str, dir: &Path, more: &[&str]) -> (i32, Value) {
    let program = Command::new(env!("CARGO_BIN_EXE_strandline"))
        .arg(verb)
        .arg(dir)
        .arg("--json")
        .args(more)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&program.stderr);
    assert!(!error.contains("panicked"), "{verb}: {error}");
    let said = serde_json::from_slice(&program.stdout).unwrap_or(Value::String(error.into_owned()));
    (program.status.code().unwrap(), said)
}

/// The numbers of the entries that a store holds.
fn held(dir: &Path) -> Vec<u32> {
    held_with(dir, options())
}

fn held_with(dir: &Path, options: DbOptions) -> Vec<u32> {
    let db = Db::open(dir, options).unwrap();
    let is_held = |number: &u32| {
        let value = db.get(KeyspaceId::DEFAULT, &key(*number)).unwrap();
        value.is_some_and(|value| {
            assert_eq!(value.as_ref(), vec![u8::try_from(*number).unwrap(); 100 << 10]);
            true
        })
    };
    let found = (1..=40).filter(is_held).collect();
    db.close().unwrap();
    found
}

#[test]
fn a_sound_store_needs_no_repair() {
    let dir = store(10);
    let before = contents(dir.path());
    assert_eq!(run("verify", dir.path(), &[]).0, 0);
    let (code, said) = run("repair", dir.path(), &[]);
    assert_eq!((code, &said["needed"]), (0, &Value::Bool(false)), "{said}");
    assert_eq!(run("repair", dir.path(), &["--apply"]).0, 0);
    assert_eq!(contents(dir.path()), before);
    assert_eq!(run("repair", dir.path(), &["--apply", "--dry-run"]).0, 2, "one or the other");
    assert_eq!(run("repair", dir.path(), &["--lose-from", "3"]).0, 2, "with --apply only");
    assert_eq!(run("repair", &dir.path().join("nowhere"), &[]).0, 3);
}

#[test]
fn a_header_is_given_back_without_loss() {
    let dir = store(10);
    for path in segments(dir.path()) {
        damage(&path, 0, 64);
    }
    // Spares still say which log it is; without them nobody could.
    let before = contents(dir.path());
    let (code, said) = run("verify", dir.path(), &[]);
    assert_eq!(code, 1, "{said}");
    if Db::open(dir.path(), options()).is_ok() {
        panic!("it is damaged");
    }
    assert_eq!(contents(dir.path()), before, "nothing is changed unasked");

    let dir = store(10);
    let newest = segments(dir.path()).pop().unwrap();
    damage(&newest, 0, 64);
    let before = contents(dir.path());
    let (code, said) = run("repair", dir.path(), &[]);
    assert_eq!((code, said["damages"].as_array().unwrap().len()), (1, 1), "{said}");
    assert_eq!(said["given_up"], Value::Null, "{said}");
    assert_eq!(contents(dir.path()), before, "a plan changes nothing");
    let (code, said) = run("repair", dir.path(), &["--apply"]);
    assert_eq!((code, &said["applied"]), (0, &Value::Bool(true)), "{said}");
    let kept = PathBuf::from(said["aside"][0]["kept_as"].as_str().unwrap());
    assert_eq!(fs::read(kept).unwrap(), before[&newest]);
    assert_eq!(held(dir.path()), (1..=40).collect::<Vec<_>>());
}

/// Damage in the middle: the consent has to name what is lost, and only that is.
#[test]
fn acknowledged_entries_are_given_up_by_name_only() {
    let dir = store(10);
    let segments = segments(dir.path());
    let middle = &segments[segments.len() - 2];
    // The newest one as well: all of it is told.
    damage(middle, BLOCK, 4096);
    damage(segments.last().unwrap(), BLOCK + 100, 10);
    let before = contents(dir.path());
    let (code, said) = run("verify", dir.path(), &[]);
    assert_eq!((code, said["damages"].as_array().unwrap().len()), (1, 2), "{said}");
    if Db::open(dir.path(), options()).is_ok() {
        panic!("it is damaged");
    }
    let (code, said) = run("repair", dir.path(), &["--dry-run"]);
    assert_eq!(code, 1);
    let first = said["given_up"][0].as_u64().unwrap();
    assert_eq!(said["given_up"][1], 40, "{said}");
    let advice = said["advice"].as_str().unwrap();
    assert!(advice.contains(&format!("--lose-from {first}")), "{advice}");
    let more = (first + 1).to_string();
    for refused in [&["--apply"][..], &["--apply", "--lose-from", &more]] {
        let (code, said) = run("repair", dir.path(), refused);
        assert_eq!((code, &said["applied"]), (1, &Value::Bool(false)), "{said}");
        assert_eq!(contents(dir.path()), before);
    }
    let first_text = first.to_string();
    let (code, said) = run("repair", dir.path(), &["--apply", "--lose-from", &first_text]);
    assert_eq!((code, &said["applied"]), (1, &Value::Bool(true)), "something was given up: {said}");
    for one in said["aside"].as_array().unwrap() {
        let kept = fs::read(one["kept_as"].as_str().unwrap()).unwrap();
        let was = &before[Path::new(one["file"].as_str().unwrap())];
        assert!(kept == *was, "{one} is kept");
    }
    assert_eq!(run("verify", dir.path(), &[]).0, 0, "it is sound now");
    let end = u32::try_from(first).unwrap();
    assert_eq!(held(dir.path()), (1..end).collect::<Vec<_>>());
}

/// What the tables hold is not missed: damage in front of what is needed costs nothing.
#[test]
fn damage_that_the_tables_hold_costs_nothing() {
    let dir = store(30);
    let segments = segments(dir.path());
    // It begins with positions that are in tables, and goes on with some that are not.
    let path = &segments[segments.len() - 2];
    damage(path, BLOCK, 200);
    // The footer would lead past it.
    damage(path, fs::metadata(path).unwrap().len() - BLOCK, 200);
    if Db::open(dir.path(), options()).is_ok() {
        panic!("what is needed lies behind the damage");
    }
    let (code, said) = run("repair", dir.path(), &[]);
    assert_eq!((code, &said["needed"]), (1, &Value::Bool(true)), "{said}");
    assert_eq!(said["given_up"], Value::Null, "{said}");
    let (code, said) = run("repair", dir.path(), &["--apply"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(held(dir.path()), (1..=40).collect::<Vec<_>>());
}

/// A log that ends before the tables do begins anew behind them.
#[test]
fn a_log_that_is_too_short_begins_anew() {
    let dir = store(40);
    let db = Db::open(dir.path(), options()).unwrap();
    db.close().unwrap();
    let all = segments(dir.path());
    for path in &all[1..] {
        fs::remove_file(path).unwrap();
    }
    if Db::open(dir.path(), options()).is_ok() {
        panic!("files are missing");
    }
    let (code, said) = run("verify", dir.path(), &[]);
    assert_eq!(code, 1, "{said}");
    let (code, said) = run("repair", dir.path(), &["--apply"]);
    assert_eq!((code, &said["given_up"]), (0, &Value::Null), "{said}");
    assert_eq!(held(dir.path()), (1..=40).collect::<Vec<_>>());
}

#[test]
fn who_has_peers_is_sent_to_them() {
    let dir = store(10);
    fs::write(group_dir(dir.path()).join("hard-state"), b"a replica").unwrap();
    let newest = segments(dir.path()).pop().unwrap();
    damage(&newest, BLOCK, 10);
    let before = contents(dir.path());
    let (code, said) = run("repair", dir.path(), &["--apply", "--lose-from", "1"]);
    assert_eq!((code, &said["applied"]), (1, &Value::Bool(false)), "{said}");
    assert!(said["advice"].as_str().unwrap().contains("--without-peers"), "{said}");
    assert_eq!(contents(dir.path()), before);
    let (_, said) = run("repair", dir.path(), &["--apply", "--lose-from", "1", "--without-peers"]);
    assert_eq!(said["applied"], true, "{said}");
}

/// A log whose newest segments stand in its spare directory, as one whose own disk has failed: damage there is found
/// and mended like that in its own, and without the spare directory nothing is done.
#[test]
fn a_log_with_a_spare_directory_is_mended_in_both() {
    let (dir, spare) = (TempDir::new(), TempDir::new());
    let log = log_dir(dir.path());
    let with_spare = || {
        let mut options = options();
        let disk = Arc::new(RealDisk::open(spare.path(), None).unwrap());
        options.wal.spare = Some(SpareDirectory { disk, dir: spare.path().to_path_buf() });
        options
    };
    fill(dir.path(), 10, with_spare());
    for path in segments(dir.path()).split_off(2) {
        fs::rename(&path, spare.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(spare.path().join("SPARE"), log.join("SPARE")).unwrap();
    let own = segments(dir.path()).pop().unwrap();
    let [.., last_but_one, newest] = &segments_in(spare.path())[..] else { panic!("too few") };
    assert_eq!(held_with(dir.path(), with_spare()), (1..=40).collect::<Vec<_>>());

    damage(&own, 0, 64);
    damage(newest, 0, 64);
    let before = (contents(dir.path()), contents(spare.path()));
    for verb in ["verify", "repair"] {
        let (code, said) = run(verb, dir.path(), &[]);
        assert_eq!(code, 3, "half of it: {said}");
        assert!(said.as_str().unwrap().contains("--log-spare-dir"), "{said}");
    }
    let flag = ["--log-spare-dir", spare.path().to_str().unwrap()];
    let config = dir.path().join("strandline.toml");
    fs::write(&config, format!("log-spare-dir = \"{}\"\n", flag[1])).unwrap();
    let by_config = ["--config", config.to_str().unwrap()];
    for more in [flag, by_config] {
        for verb in ["verify", "repair"] {
            let (code, said) = run(verb, dir.path(), &more);
            assert_eq!((code, said["damages"].as_array().unwrap().len()), (1, 2), "{said}");
        }
    }
    fs::remove_file(&config).unwrap();
    assert_eq!((contents(dir.path()), contents(spare.path())), before, "a plan changes nothing");
    let (code, said) = run("repair", dir.path(), &[&flag[..], &["--apply"]].concat());
    assert_eq!((code, &said["applied"]), (0, &Value::Bool(true)), "{said}");
    let kept_as = |at: usize| PathBuf::from(said["aside"][at]["kept_as"].as_str().unwrap());
    for at in 0..2 {
        let file = PathBuf::from(said["aside"][at]["file"].as_str().unwrap());
        let was = before.0.get(&file).or(before.1.get(&file)).unwrap();
        assert!(fs::read(kept_as(at)).unwrap() == *was, "{} is kept", file.display());
        assert_eq!(kept_as(at).parent(), file.parent(), "beside it");
    }
    assert_eq!(held_with(dir.path(), with_spare()), (1..=40).collect::<Vec<_>>());

    // A mark is given back from the other one; without the spare directory nobody says which log it is.
    for mark in [log.join("SPARE"), spare.path().join("SPARE")] {
        let whole = fs::read(&mark).unwrap();
        damage(&mark, 16, 4);
        let (code, said) = run("verify", dir.path(), &flag);
        assert_eq!(
            (code, &said["damages"][0]["file"]),
            (1, &json!(mark.to_str().unwrap())),
            "{said}"
        );
        assert_eq!(said["damages"].as_array().unwrap().len(), 1, "{said}");
        if mark.starts_with(&log) {
            let (code, said) = run("repair", dir.path(), &["--apply"]);
            assert_eq!((code, &said["applied"]), (1, &Value::Bool(false)), "{said}");
            assert!(said["advice"].as_str().unwrap().contains("--log-spare-dir"), "{said}");
        }
        let (code, said) = run("repair", dir.path(), &[&flag[..], &["--apply"]].concat());
        assert_eq!((code, &said["applied"]), (0, &Value::Bool(true)), "{said}");
        assert_eq!(fs::read(&mark).unwrap(), whole);
        assert_eq!(run("verify", dir.path(), &flag).0, 0, "it is sound now");
    }

    // What is lost there is given up by name.
    damage(last_but_one, BLOCK, 4096);
    let (code, said) = run("repair", dir.path(), &[&flag[..], &["--apply"]].concat());
    assert_eq!((code, &said["applied"]), (1, &Value::Bool(false)), "{said}");
    let first = said["given_up"][0].as_u64().unwrap();
    let consent = first.to_string();
    let consent = ["--apply", "--lose-from", consent.as_str()];
    let (_, said) = run("repair", dir.path(), &[&flag[..], &consent].concat());
    assert_eq!(said["applied"], true, "{said}");
    assert_eq!(run("verify", dir.path(), &flag).0, 0, "it is sound now");
    let end = u32::try_from(first).unwrap();
    assert_eq!(held_with(dir.path(), with_spare()), (1..end).collect::<Vec<_>>());
}

/// Damage everywhere, at places drawn from a seed: every verb ends with an answer.
#[test]
fn whatever_is_damaged_there_is_an_answer() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let dir = store(20);
    for turn in 0..12 {
        let files: Vec<PathBuf> = contents(dir.path()).into_keys().collect();
        let path = &files[usize::try_from(below(files.len() as u64)).unwrap()];
        let len = fs::metadata(path).unwrap().len().max(1);
        damage(path, below(len) / 64 * 64, usize::try_from(1 + below(5000)).unwrap());
        if turn % 4 == 3 {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(below(len)).unwrap();
        }
        let (code, said) = run("verify", dir.path(), &[]);
        assert!((0..=1).contains(&code), "turn {turn}, {}: {said}", path.display());
        let (code, said) = run("repair", dir.path(), &[]);
        assert!((0..=1).contains(&code), "turn {turn}, {}: {said}", path.display());
        for path in segments(dir.path()) {
            let inspected = Command::new(env!("CARGO_BIN_EXE_strandline"))
                .args(["inspect", "wal"])
                .arg(&path)
                .output()
                .unwrap();
            assert_eq!(inspected.status.code(), Some(0), "{}", path.display());
        }
    }
    let (_, said) = run("repair", dir.path(), &["--apply", "--lose-from", "1"]);
    let is_clear = said["advice"].as_str().unwrap().contains("mended");
    println!("after twelve: {}, mended: {is_clear}", said["advice"]);
}
