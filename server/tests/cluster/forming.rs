//! A cluster is formed by `cluster init`, once, and by all of its nodes.

use std::process::{Command, Stdio};

use crate::directory::Directory;
use crate::harness::{Cluster, node_list, strandline};

#[test]
fn what_init_makes_runs_and_nothing_of_it_runs_as_anything_else() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client(0);
    assert_eq!(client.ask("set a 1"), "OK");
    let info = client.ask("info replication");
    let id = info.lines().find_map(|line| line.strip_prefix("cluster_id:")).unwrap().to_owned();
    assert_ne!(id, "1");
    // Every start names its cluster, so a restart does, too.
    cluster.kill(2);
    cluster.restart(2);
    cluster.client(2).await_answer("get a", "1");

    // A second time is refused, and says whose the directory is.
    let (_, other) = node_list(3);
    let dir = cluster.dir.0.to_str().unwrap().to_owned();
    let again = strandline(&["cluster", "init", &other, "--dir", &dir]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(3), "{said}");
    assert!(said.contains(&format!("node 1 of cluster {id}")), "{said}");

    // The directory of a node opens alone no more, nor in a cluster of another number.
    cluster.kill(2);
    let node = format!("{dir}/node-3");
    let alone = refused(&["--dir", &node, "--listen", "127.0.0.1:0"]);
    assert!(alone.contains(&format!("node 3 of cluster {id}")), "{alone}");
    let list = other.as_str();
    let elsewhere =
        refused(&["--dir", &node, "--listen", "127.0.0.1:0", "--node-id", "3", "--cluster", list]);
    assert!(elsewhere.contains("group 1"), "{elsewhere}");
    cluster.restart(2);
    cluster.client(2).await_answer("get a", "1");
}

#[test]
fn what_init_makes_with_tls_runs_and_lets_nobody_in_without() {
    let mut cluster = Cluster::start_with_tls(3);
    assert_eq!(cluster.client(0).ask("set a 1"), "OK");
    cluster.kill(2);
    // The same node, in everything but its certificate.
    let file = cluster.settings(2);
    let with = std::fs::read_to_string(&file).unwrap();
    let lines = with.lines().filter(|line| !line.contains("tls"));
    let without = lines.collect::<Vec<_>>().join("\n");
    assert!(without.lines().count() < with.lines().count(), "{with}");
    std::fs::write(&file, without).unwrap();
    cluster.restart(2);
    let leader = cluster.leader_among(&[0, 1]);
    assert_eq!(cluster.client(leader).ask("set a 2"), "OK");
    let info = cluster.client(2).ask("info replication");
    assert!(info.contains("leader_id:0") || !info.contains("leader_id:"), "{info}");
    cluster.kill(2);
    std::fs::write(&file, with).unwrap();
    cluster.restart(2);
    cluster.client(2).await_answer("get a", "2");
}

/// What `serve` says when it does not run.
fn refused(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_strandline"))
        .arg("serve")
        .args(args)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn init_says_what_it_made_as_json() {
    let dir = Directory::new();
    let (ports, list) = node_list(3);
    let made = strandline(&["cluster", "init", &list, "--dir", dir.0.to_str().unwrap(), "--json"]);
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stdout).unwrap();
    for expected in ["\"cluster_id\"", "serve --config", &format!("--node 127.0.0.1:{}", ports[0])]
    {
        assert!(text.contains(expected), "{text}");
    }
    let none = strandline(&["cluster", "init", "--dir", dir.0.to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
