//! The benchmarks that judge: a data set larger than memory is read back, and what a killed process
//! had acknowledged is there when the store is opened again. Short versions of what the documentation
//! tells to run for longer; no time is judged.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strandline"));
    let output = command.arg("bench").args(arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{text}{said}", output.status);
    serde_json::from_str(&text).unwrap()
}

fn sum(rows: &Value, name: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[name].as_u64().unwrap()).sum()
}

#[test]
fn four_times_the_memory_is_read_back_to_the_last_byte() {
    let found = bench(&["large", "--memory-mib", "4", "--threads", "2"]);
    let number = |name: &str| found[name].as_u64().unwrap();
    assert!(number("data_bytes") > 3 * number("memory_bytes"), "{found}");
    assert_eq!(number("read_right"), number("keys"), "{found}");
    assert_eq!(number("scanned_right"), number("keys"), "{found}");
    assert!(number("flushes") > 8, "{found}");
    assert!(number("compactions") > 0, "compaction ran behind: {found}");
    assert!(sum(&found["levels"], "tables") > 4, "{found}");
    // What is stored is the data, once, and what compaction has not come to yet.
    assert!(sum(&found["levels"], "bytes") >= number("data_bytes"), "{found}");
}

#[test]
fn what_a_killed_writer_acknowledged_is_there_at_every_size() {
    let found =
        bench(&["recovery", "--stored-mib", "1,4", "--unflushed", "200,2000", "--rounds", "2"]);
    let runs = &found["runs"];
    assert_eq!(runs.as_array().unwrap().len(), 4, "{found}");
    assert_eq!(sum(runs, "lost"), 0, "{found}");
    assert_eq!(sum(runs, "unflushed"), 4400, "{found}");
    assert_eq!(found["read_right"].as_u64(), Some(4400), "{found}");
    // What is read of the log does not grow with what is stored: one segment, and the entries.
    for run in runs.as_array().unwrap() {
        assert!(run["log_bytes_read"].as_u64().unwrap() < 80 << 20, "{found}");
    }
}
