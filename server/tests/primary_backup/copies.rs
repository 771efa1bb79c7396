//! A backup that the log does not reach back to.

use std::path::Path;
use std::sync::Arc;

use strandline_engine::DbOptions;
use strandline_server::config::{Config, Origin};
use strandline_server::start::{Node, Opened, start_with};
use strandline_server::store::Store;
use strandline_wal::disk::{RealDisk, Rung};

use crate::directory::Directory;
use crate::harness::{Process, client_of};
use crate::process::Client;

/// A node whose log is trimmed after a few hundred kilobytes.
fn short_log(dir: &Directory) -> Node {
    let mut config = Config::default();
    let settings = [("port", "0"), ("dir", dir.0.to_str().unwrap()), ("write-timeout-ms", "60000")];
    for (name, value) in settings {
        config.set(name, value, Origin::Command).unwrap();
    }
    let open = |dir: &Path| {
        let mut options = DbOptions::default();
        options.wal.segment_size = 256 << 10;
        options.wal.group_size_max = 64 << 10;
        options.engine.memtable_size = 128 << 10;
        let disk = RealDisk::open(dir, Some(Rung::BufferedFdatasync)).unwrap();
        Ok(Opened::alone(Store::open_on(Arc::new(disk), dir, options)?))
    };
    start_with(config, open).unwrap()
}

fn fill(client: &mut Client, name: &str) {
    let value = "v".repeat(10_000);
    for number in 0..300 {
        assert_eq!(client.ask(&format!("set {name}:{number} {value}")), "OK");
    }
}

fn first(client: &mut Client) -> u64 {
    let info = client.ask("info replication");
    let line = info.lines().find_map(|line| line.strip_prefix("repl_backlog_first_byte_offset:"));
    line.unwrap().parse().unwrap()
}

#[test]
fn who_is_too_far_behind_gets_a_copy() {
    let dir = Directory::new();
    let primary = short_log(&dir);
    let port = primary.addresses()[0].port();
    let mut client = client_of(port);
    fill(&mut client, "before");
    assert!(first(&mut client) > 1, "the log has been trimmed");
    // One that is empty, one that has been emptied, and one that is told to discard.
    let fresh = Process::start(&[]);
    let emptied = Process::start(&[]);
    emptied.ask("set own 1");
    emptied.ask("flushall");
    let told = Process::start(&[]);
    told.ask("set own 1");
    let order = format!("replicaof 127.0.0.1 {port}");
    assert_eq!(fresh.ask(&order), "OK");
    assert_eq!(emptied.ask(&order), "OK");
    assert!(told.ask(&order).starts_with("-DIVERGED"));
    assert_eq!(told.ask(&format!("{order} discard")), "OK");
    let mut backups = [fresh, emptied, told];
    for backup in &backups {
        backup.await_link();
    }
    assert_eq!(client.ask("set last one"), "OK");
    assert_eq!(client.ask("wait 3 60000"), "3");
    for backup in &backups {
        assert_eq!(backup.ask("dbsize"), "301");
        assert_eq!(backup.ask("debug digest"), client.ask("debug digest"));
        assert_eq!(backup.ask("get own"), "(nil)");
    }
    // Away for a while: what it lacks is kept for it. It keeps what it took over.
    let away = &mut backups[0];
    away.kill();
    let begins = first(&mut client);
    fill(&mut client, "meanwhile");
    // It has 303 entries: the two that create keyspaces, 300, and the last one.
    let kept = first(&mut client);
    assert!(kept <= begins.max(304), "{kept}: the log is kept for a backup that is away");
    away.restart();
    assert_eq!(client.ask("wait 3 60000"), "3");
    assert_eq!(away.ask("debug digest"), client.ask("debug digest"));
    // The primary restarts and remembers nobody; the backup was away meanwhile.
    away.kill();
    primary.finish().unwrap();
    let primary = short_log(&dir);
    let port = primary.addresses()[0].port();
    let mut client = client_of(port);
    fill(&mut client, "before");
    fill(&mut client, "after");
    assert!(first(&mut client) > 700);
    away.restart();
    let told = away.ask(&format!("replicaof 127.0.0.1 {port}"));
    assert_eq!(told, "OK", "its log is a prefix, though no entry of it is left there");
    away.await_link();
    assert_eq!(client.ask("wait 1 60000"), "1");
    assert_eq!(away.ask("debug digest"), client.ask("debug digest"));
    away.kill();
    away.restart();
    assert_eq!(away.ask("dbsize"), client.ask("dbsize"));
    primary.finish().unwrap();
}
