//! Reads on a follower after `READONLY`, on real processes: answered there while its state is proven to be
//! young enough, and never beyond that.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three nodes, killed at the end.
struct Cluster {
    dir: PathBuf,
    ports: Vec<u16>,
    nodes: Vec<Child>,
}

impl Cluster {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("strandline-{name}-{}", std::process::id()));
        let listeners: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let list: Vec<String> = (0..3)
            .map(|at| format!("{}=127.0.0.1:{}@{}", at + 1, ports[at], ports[at + 3]))
            .collect();
        let list = list.join(",");
        let nodes = (0..3).map(|at| {
            let id = (at + 1).to_string();
            Command::new(env!("CARGO_BIN_EXE_strandline"))
                .args(["serve", "--listen", &format!("127.0.0.1:{}", ports[at]), "--dir"])
                .arg(dir.join(&id))
                .args(["--node-id", &id, "--cluster", &list])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        let mut nodes: Vec<Child> = nodes.collect();
        for node in &mut nodes {
            let mut line = String::new();
            BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(line.starts_with("ready"), "{line:?}");
        }
        Self { dir, ports, nodes }
    }

    fn client(&self, at: usize) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[at])).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// A node that follows.
    fn follower(&self) -> usize {
        let follows = |at: &usize| {
            let info = self.client(*at).ask("info replication");
            info.contains("role:slave") && info.contains("master_link_status:up")
        };
        let began = Instant::now();
        loop {
            if let Some(at) = (0..3).find(follows) {
                return at;
            }
            assert!(began.elapsed() < PATIENCE, "nobody follows");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Client(TcpStream);

impl Client {
    /// One inline command; its answer is one line or one bulk.
    fn ask(&mut self, line: &str) -> String {
        self.0.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let first = self.line();
        match first.strip_prefix('$').map(|len| len.parse::<usize>()) {
            Some(Ok(len)) => {
                let mut bytes = vec![0; len + 2];
                self.0.read_exact(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes[..len]).into_owned()
            }
            _ => first,
        }
    }

    fn line(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// Asks until it is answered like this.
    fn await_answer(&mut self, line: &str, expected: &str) -> String {
        let began = Instant::now();
        loop {
            let answer = self.ask(line);
            if answer.contains(expected) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{line}: {answer:?}, not {expected}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn count_of(info: &str, name: &str) -> i64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok()).unwrap()
}

#[test]
fn a_follower_answers_alone_within_the_bound_and_not_beyond_it() {
    let mut cluster = Cluster::start("stale-reads");
    let at = cluster.follower();
    let mut strict = cluster.client(at);
    strict.await_answer("set colour blue", "OK");
    assert_eq!(strict.ask("get colour"), "blue");
    assert_eq!(count_of(&strict.ask("info replication"), "stale_reads"), 0, "nobody has asked");

    // Long enough for a machine that stands still in between.
    strict.ask("config set stale-read-max-ms 600000");
    assert!(strict.ask("config get stale-read-max-ms").starts_with('*'));
    strict.line();
    strict.line();
    strict.line();
    assert_eq!(strict.line(), "600000");
    let mut loose = cluster.client(at);
    assert_eq!(loose.ask("readonly"), "+OK");
    loose.await_answer("get colour", "blue");
    let began = Instant::now();
    let info = loop {
        loose.await_answer("get colour", "blue");
        let info = strict.ask("info replication");
        if count_of(&info, "stale_reads") > 0 {
            break info;
        }
        assert!(began.elapsed() < PATIENCE, "{info}");
    };
    assert_eq!(count_of(&info, "stale_read_max_ms"), 600_000);
    assert!(count_of(&strict.ask("info replication"), "staleness_ms") >= 0);

    // Alone: as of now nothing can be said, and what was proven is young enough for who takes it.
    for (other, node) in cluster.nodes.iter_mut().enumerate().filter(|(other, _)| *other != at) {
        node.kill().unwrap();
        node.wait().unwrap();
        assert_ne!(other, at);
    }
    strict.await_answer("get colour", "CLUSTERDOWN");
    assert_eq!(loose.ask("get colour"), "blue");
    // It ends with the bound, and with the wish.
    strict.ask("config set stale-read-max-ms 1");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
    strict.ask("config set stale-read-max-ms 600000");
    assert_eq!(loose.ask("get colour"), "blue");
    assert_eq!(loose.ask("readwrite"), "+OK");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
    loose.ask("readonly");
    assert_eq!(loose.ask("get colour"), "blue");
    strict.ask("config set stale-read-max-ms 0");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
}
