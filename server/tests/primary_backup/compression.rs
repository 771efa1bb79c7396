//! A node whose log is compressed: killed with -9, started with and without it, and followed.

use crate::harness::Process;

const LZ4: [(&str, &str); 1] = [("STRANDLINE_LOG_COMPRESSION", "lz4")];

/// Writes so many values of 10 KB, and reads them back.
fn fill(node: &Process, name: &str, count: usize) {
    let mut client = node.client();
    for number in 0..count {
        assert_eq!(client.ask(&format!("set {name}:{number} {}", value(name, number))), "OK");
    }
    check(node, name, count);
}

fn check(node: &Process, name: &str, count: usize) {
    let mut client = node.client();
    for number in 0..count {
        assert_eq!(client.ask(&format!("get {name}:{number}")), value(name, number));
    }
}

fn value(name: &str, number: usize) -> String {
    format!("{name}-{number}-").repeat(10_000 / (name.len() + 4))
}

/// A figure of `INFO persistence`.
fn figure(node: &Process, name: &str) -> u64 {
    let info = node.ask("info persistence");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_log_is_compressed_or_not_from_one_life_to_the_next() {
    let mut primary = Process::start_with(&[], &LZ4);
    assert_eq!(primary.ask("config get log-compression"), "log-compression lz4");
    assert!(primary.ask("config set log-compression no").contains("immutable"));
    fill(&primary, "first", 200);
    let (went_in, written) = (figure(&primary, "log_payload"), figure(&primary, "log_written"));
    assert!(went_in > 2_000_000 && written < went_in / 2, "{written} of {went_in} bytes");
    let digest = primary.ask("debug digest");
    primary.kill();
    primary.restart();
    assert_eq!(primary.ask("debug digest"), digest);
    check(&primary, "first", 200);

    // Without: what is compressed is read, and what comes now is not.
    primary.kill();
    primary.restart_with(&[]);
    assert_eq!(primary.ask("config get log-compression"), "log-compression no");
    assert_eq!(primary.ask("debug digest"), digest);
    fill(&primary, "second", 50);
    assert!(figure(&primary, "log_written") > figure(&primary, "log_payload"));
    primary.kill();
    primary.restart_with(&LZ4);
    fill(&primary, "third", 50);

    // A backup is sent all of it, and is behind once more.
    let mut backup = Process::start(&[]);
    assert_eq!(backup.ask(&format!("replicaof {}", primary.address())), "OK");
    backup.await_link();
    // Not over another connection: it would have nothing to wait for.
    let mut client = primary.client();
    assert_eq!(client.ask("set last 1"), "OK");
    assert_eq!(client.ask("wait 1 60000"), "1");
    assert_eq!(backup.ask("debug digest"), primary.ask("debug digest"));
    backup.kill();
    fill(&primary, "fourth", 100);
    primary.kill();
    primary.restart();
    backup.restart_with(&LZ4);
    backup.await_link();
    let mut client = primary.client();
    assert_eq!(client.ask("set last 2"), "OK");
    assert_eq!(client.ask("wait 1 60000"), "1");
    assert_eq!(backup.ask("debug digest"), primary.ask("debug digest"));
    for node in [&mut primary, &mut backup] {
        node.kill();
        node.restart_with(&[]);
        for (name, count) in [("first", 200), ("second", 50), ("third", 50), ("fourth", 100)] {
            check(node, name, count);
        }
        assert_eq!(node.ask("dbsize"), "401");
    }
}
