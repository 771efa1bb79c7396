//! A primary and its backups, in real processes: typed as users type it, killed with -9.

#![allow(clippy::unwrap_used)]

mod compression;
mod copies;
#[path = "../common/directory.rs"]
mod directory;
mod harness;
mod links;
#[path = "../common/process.rs"]
mod process;

use harness::{Process, client_of};

fn follow(backup: &Process, primary: &Process) -> String {
    backup.ask(&format!("replicaof {}", primary.address()))
}

fn both_keys(node: &Process) {
    assert_eq!(node.ask("mget first second"), "one two");
}

/// Practice 2: with a password, all killed and started again in every order. Redis loses both keys.
#[test]
fn both_keys_are_everywhere_whatever_the_order() {
    let password = ["--requirepass", "tide"];
    let mut nodes: Vec<Process> = vec![Process::start(&password), Process::start(&password)];
    let port = nodes[0].port.to_string();
    let flags = ["--requirepass", "tide", "--masterauth", "tide", "--slaveof", "127.0.0.1", &port];
    nodes.push(Process::start(&flags));
    let hint = nodes[1].ask("masterauth");
    assert!(hint.contains("CONFIG SET masterauth"), "{hint}");
    assert_eq!(nodes[1].ask("config set masterauth tide"), "OK");
    assert_eq!(follow(&nodes[1], &nodes[0]), "OK");
    let mut client = nodes[0].client();
    assert_eq!(client.ask("set first one"), "OK");
    assert_eq!(client.ask("set second two"), "OK");
    assert_eq!(client.ask("wait 2 60000"), "2");
    for node in &nodes[1..] {
        both_keys(node);
        assert!(node.ask("set third three").starts_with("-READONLY"), "a backup takes no writes");
    }
    for (round, order) in
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].iter().enumerate()
    {
        nodes.iter_mut().for_each(Process::kill);
        for place in order {
            nodes[*place].restart();
            both_keys(&nodes[*place]);
        }
        // And the backups still follow: what was typed, and the password, are kept.
        let mut client = nodes[0].client();
        assert_eq!(client.ask(&format!("set round {round}")), "OK");
        assert_eq!(client.ask("wait 2 60000"), "2");
        for node in &nodes {
            both_keys(node);
            assert_eq!(node.ask("get round"), round.to_string());
        }
    }
}

/// A primary that lost its disk is no source: not for the backup that followed it, and not when it
/// has been written to since.
#[test]
fn who_comes_back_empty_is_followed_by_nobody_who_has_data() {
    let mut primary = Process::start(&[]);
    let backup = Process::start(&[]);
    primary.ask("set first one");
    primary.ask("set second two");
    assert_eq!(follow(&backup, &primary), "OK");
    backup.await_link();
    backup.await_answer("get second", "two");
    primary.kill();
    backup.await_answer("info replication", "cannot be reached");
    both_keys(&backup);
    primary.wipe();
    primary.restart();
    let why = backup.await_answer("info replication", "master_link_refused:1");
    assert!(why.contains("is empty and this one has data"), "{why}");
    assert!(why.contains("REPLICAOF NO ONE") && why.contains("DISCARD"), "{why}");
    both_keys(&backup);
    primary.ask("set other thing");
    backup.await_answer("info replication", "another history");
    both_keys(&backup);
    // The way out that keeps the data. The old primary has a key that the new one has not.
    assert_eq!(backup.ask("replicaof no one"), "OK");
    let refused = follow(&primary, &backup);
    assert!(refused.starts_with("-DIVERGED"), "{refused}");
    assert_eq!(primary.ask("set still writable"), "OK", "a refused order changes nothing");
    let told = primary.ask(&format!("replicaof {} discard", backup.address()));
    assert_eq!(told, "OK");
    primary.await_answer("mget first second", "one two");
    primary.await_link();
    assert_eq!(primary.ask("dbsize"), "2");
    assert_eq!(backup.ask("set third three"), "OK");
    primary.await_answer("get third", "three");
}

/// A promoted backup and its old primary: whoever wrote nothing since follows the other without a
/// word; whoever did is refused until it is told to discard.
#[test]
fn a_fork_is_never_merged_in_silence() {
    let mut primary = Process::start(&[]);
    let backup = Process::start(&[]);
    primary.ask("set first one");
    primary.ask("set second two");
    assert_eq!(follow(&backup, &primary), "OK");
    backup.await_answer("get second", "two");
    assert!(follow(&primary, &backup).starts_with("-ERR the node at"), "no circles");
    assert!(follow(&primary, &primary).contains("cannot follow itself"));
    primary.kill();
    assert_eq!(backup.ask("slaveof no one"), "OK");
    assert_eq!(backup.ask("set third three"), "OK");
    primary.restart();
    assert_eq!(follow(&primary, &backup), "OK", "its log is a prefix of the other's");
    primary.await_answer("get third", "three");
    both_keys(&primary);
    // Now both go on alone.
    assert_eq!(primary.ask("replicaof no one"), "OK");
    primary.ask("set fork left");
    backup.ask("set fork right");
    let refused = follow(&primary, &backup);
    assert!(refused.starts_with("-DIVERGED this node has entries"), "{refused}");
    assert_eq!(primary.ask("get fork"), "left");
    primary.ask(&format!("replicaof {} DISCARD", backup.address()));
    primary.await_answer("get fork", "right");
    both_keys(&primary);
    both_keys(&backup);
}

/// Chains: a backup feeds another, and goes on when it is promoted.
#[test]
fn a_backup_can_be_followed() {
    let first = Process::start(&[]);
    let (middle, last) = (Process::start(&[]), Process::start(&[]));
    assert_eq!(follow(&middle, &first), "OK");
    assert_eq!(follow(&last, &middle), "OK");
    middle.await_link();
    last.await_link();
    first.ask("set first one");
    last.await_answer("get first", "one");
    let refused = follow(&first, &last);
    assert!(refused.contains("follows this one"), "{refused}");
    assert_eq!(middle.ask("replicaof no one"), "OK");
    middle.ask("set second two");
    last.await_answer("get second", "two");
    assert!(middle.ask("role").starts_with("master 4 127.0.0.1"), "{}", middle.ask("role"));
}

/// A planned change of sides under load: every acknowledged write is on both, and both go on.
#[test]
fn the_lead_is_handed_over_without_loss() {
    let password = ["--requirepass", "tide", "--masterauth", "tide"];
    let nodes = [(); 3].map(|()| Process::start(&password));
    assert!(nodes[0].ask("failover").starts_with("-ERR FAILOVER requires"));
    for backup in &nodes[1..] {
        assert_eq!(follow(backup, &nodes[0]), "OK");
        backup.await_link();
    }
    assert!(nodes[0].ask("failover to localhost 1").contains("is not a replica"));
    assert!(nodes[1].ask("failover").contains("not valid when server is a replica"));
    let port = nodes[0].port;
    let writer = std::thread::spawn(move || {
        let mut client = client_of(port);
        let mut count = 0;
        loop {
            let answer = client.ask(&format!("set key:{count} {count}"));
            if answer != "OK" {
                return (count, answer);
            }
            count += 1;
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    let to = format!("failover to localhost {} timeout 60000", nodes[1].port);
    assert_eq!(nodes[0].ask(&to), "OK");
    let (count, answer) = writer.join().unwrap();
    assert!(answer.starts_with("-READONLY") && count > 0, "{count} and {answer}");
    assert!(nodes[1].ask("role").starts_with("master"));
    assert_eq!(nodes[1].ask("dbsize"), count.to_string());
    assert_eq!(nodes[1].ask("set after 1"), "OK");
    // The old primary follows, and the other backup follows it.
    for node in &nodes {
        node.await_answer("get after", "1");
        assert_eq!(node.ask("dbsize"), (count + 1).to_string());
        assert_eq!(node.ask("debug digest"), nodes[1].ask("debug digest"));
    }
    // A backup that does not catch up in time changes nothing.
    assert_eq!(nodes[1].ask("failover timeout 0"), "-ERR FAILOVER timeout must be greater than 0");
    assert_eq!(nodes[1].ask("failover"), "OK");
    assert!(nodes[0].ask("role").starts_with("master"));
    assert_eq!(nodes[0].ask("set back 1"), "OK");
}

/// Writes are refused, or none is lost: never taken behind a node's back while it changes sides.
#[test]
fn nothing_acknowledged_is_lost_when_a_loaded_primary_is_killed() {
    let mut primary = Process::start(&[]);
    let backup = Process::start(&[]);
    assert_eq!(follow(&backup, &primary), "OK");
    backup.await_link();
    for round in 0..3 {
        let port = primary.port;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                std::thread::spawn(move || {
                    let mut client = client_of(port);
                    let mut count = 0;
                    let key = |count| format!("{round}:{writer}:{count}");
                    while client.ask(&format!("set {} {count}", key(count))) == "OK" {
                        count += 1;
                    }
                    (writer, count)
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(400));
        primary.kill();
        let counts: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        primary.restart();
        assert_eq!(primary.ask("set last round"), "OK");
        assert_eq!(primary.ask("wait 1 60000"), "1");
        for node in [&primary, &backup] {
            let mut client = node.client();
            for (writer, count) in &counts {
                assert!(*count > 0);
                for number in 0..*count {
                    let found = client.ask(&format!("get {round}:{writer}:{number}"));
                    assert_eq!(found, number.to_string());
                }
            }
        }
        assert_eq!(primary.ask("dbsize"), backup.ask("dbsize"));
        assert_eq!(primary.ask("debug digest"), backup.ask("debug digest"));
    }
}

/// Under load a primary is told to follow the backup that was promoted: every write that it has
/// acknowledged is there, or it refuses to follow.
#[test]
fn changing_sides_under_load_discards_nothing() {
    let primary = Process::start(&[]);
    let other = Process::start(&[]);
    let port = primary.port;
    let writer = std::thread::spawn(move || {
        let mut client = client_of(port);
        let mut count = 0;
        loop {
            let answer = client.ask(&format!("set key:{count} {count}"));
            if answer != "OK" {
                return (count, answer);
            }
            count += 1;
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    // An empty primary is no source.
    assert!(follow(&primary, &other).starts_with("-DIVERGED"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    // To somebody who is not there it goes over at once: writes end, nothing is discarded.
    let told = primary.ask("replicaof 127.0.0.1 1");
    let (count, answer) = writer.join().unwrap();
    assert!(answer.starts_with("-READONLY"), "{answer}");
    assert!(told.starts_with("OK This node follows as soon as it can"), "{told}");
    assert_eq!(primary.ask("dbsize"), count.to_string());
    assert_eq!(primary.ask("replicaof no one"), "OK");
    assert_eq!(primary.ask("set one more"), "OK");
}

/// Settings that refuse: too few backups, no primary, another password.
#[test]
fn settings_refuse_before_anything_is_done() {
    let mut primary = Process::start(&["--requirepass", "tide"]);
    let backup = Process::start(&[]);
    assert_eq!(primary.ask("config set min-replicas-to-write 1"), "OK");
    let refused = primary.ask("set first one");
    assert!(refused.starts_with("-NOREPLICAS"), "{refused}");
    // The password is missing, then wrong, then right.
    let told = follow(&backup, &primary);
    assert!(told.contains("CONFIG SET masterauth"), "{told}");
    backup.await_answer("info replication", "does not take the password");
    assert_eq!(backup.ask("config set masterauth ebb"), "OK");
    backup.await_answer("info replication", "WRONGPASS");
    assert_eq!(backup.ask("config set masterauth tide"), "OK");
    backup.await_link();
    let mut client = primary.client();
    while client.ask("set first one") != "OK" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(client.ask("wait 1 60000"), "1");
    assert_eq!(backup.ask("config set replica-serve-stale-data no"), "OK");
    assert_eq!(backup.ask("get first"), "one");
    primary.kill();
    backup.await_answer("get first", "MASTERDOWN");
    assert_eq!(backup.ask("config set slave-serve-stale-data yes"), "OK");
    assert_eq!(backup.ask("get first"), "one");
    let shown = backup.ask("config get replicaof");
    assert_eq!(shown, format!("replicaof {}", primary.address()));
    assert!(backup.ask("config set slaveof no\\ one").starts_with("-ERR"));
}
