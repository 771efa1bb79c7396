//! A node on a simulated disk that fills up, fails and stalls: what clients are told.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use strandline_engine::DbOptions;
use strandline_server::config::{Config, Origin};
use strandline_server::start::{Node, Opened, start_with};
use strandline_server::store::Store;
use strandline_wal::Result;
use strandline_wal::disk::{
    Completion, Disk, DurableWrite, File, Lock, Map, OpenMode, Profile, SimulatedDisk, Submitted,
    WriteQueue, WriterThreads,
};

fn node(disk: Arc<dyn Disk>, write_timeout_ms: &str) -> Node {
    let mut config = Config::default();
    let settings = [("port", "0"), ("dir", "/node"), ("write-timeout-ms", write_timeout_ms)];
    for (name, value) in settings {
        config.set(name, value, Origin::Command).unwrap();
    }
    let open = |dir: &Path| Ok(Opened::alone(Store::open_on(disk, dir, DbOptions::default())?));
    start_with(config, open).unwrap()
}

/// A disk whose durable writes wait while the gate is shut.
#[derive(Debug)]
struct StallingDisk {
    inner: Arc<SimulatedDisk>,
    shut: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Debug)]
struct StallingQueue {
    inner: Box<dyn WriteQueue>,
    shut: Arc<(Mutex<bool>, Condvar)>,
}

impl WriteQueue for StallingQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let shut = self.shut.0.lock().unwrap();
        drop(self.shut.1.wait_while(shut, |shut| *shut).unwrap());
        self.inner.submit(write)
    }
    fn complete(&self) -> Vec<Completion> {
        self.inner.complete()
    }
}

impl Disk for StallingDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.inner.open(path, mode)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.link(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.inner.sync_dir(dir)
    }
    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        self.inner.map_front(path, len)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }
    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        let inner = self.inner.write_queue()?;
        Ok(Box::new(StallingQueue { inner, shut: self.shut.clone() }))
    }
    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        Ok(Box::new(WriterThreads::new(self.write_queue()?, 2, Path::new("/"))?))
    }
    fn profile(&self) -> Profile {
        self.inner.profile()
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn new(node: &Node) -> Self {
        let stream = TcpStream::connect(node.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n"));
        self.line()
    }
}

/// Goal: once the log has failed, every write that was proposed is answered as unknown, later ones are
/// refused in a word that says they were not written, and reads go on.
#[test]
fn a_failed_log_answers_everything_and_serves_reads() {
    let disk = SimulatedDisk::new(1);
    let node = node(disk.clone(), "60000");
    let mut client = Client::new(&node);
    assert_eq!(client.ask("set a 1"), "+OK");
    disk.kill();
    client.send("set a 2\r\nset b 2\r\nincr a\r\n");
    for _ in 0..3 {
        let line = client.line();
        assert!(line.starts_with("-UNKNOWN ") || line.starts_with("-MISCONF "), "{line}");
    }
    let line = client.ask("set a 3");
    assert!(line.starts_with("-MISCONF "), "{line}");
    assert_eq!(client.ask("get a"), "$1");
    assert_eq!(client.line(), "1");
    assert_eq!(client.ask("ping"), "+PONG");
    // Not everything could be made durable, and the node says so.
    assert!(node.finish().is_err());
}

/// Goal: a write that takes too long is answered as unknown and its late answer goes to nobody else.
#[test]
fn a_stalled_disk_makes_outcomes_unknown_and_nothing_is_mixed_up() {
    let shut = Arc::new((Mutex::new(false), Condvar::new()));
    let disk = StallingDisk { inner: SimulatedDisk::new(2), shut: shut.clone() };
    let node = node(Arc::new(disk), "200");
    let mut client = Client::new(&node);
    // On a loaded machine the first write of all may take longer than is allowed here.
    while client.ask("set a 1") != "+OK" {}
    *shut.0.lock().unwrap() = true;
    client.send("incr a\r\nincr a\r\nget a\r\n");
    assert!(client.line().starts_with("-UNKNOWN "));
    assert!(client.line().starts_with("-UNKNOWN "));
    assert_eq!((client.line().as_str(), client.line().as_str()), ("$1", "1"));
    *shut.0.lock().unwrap() = false;
    shut.1.notify_all();
    // The server answers again, in order; the late answers of the first two are not among these.
    let line = loop {
        let line = client.ask("append log x");
        if !line.starts_with("-UNKNOWN ") {
            break line;
        }
    };
    assert!(line.starts_with(':'), "{line}");
    assert_eq!(client.ask("get a"), "$1");
    assert_eq!(client.line(), "3");
    node.finish().unwrap();
}

/// Goal: a full disk refuses writes before they are proposed, reads go on, and writes resume by
/// themselves.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimulatedDisk::new(3);
    let node = node(disk.clone(), "60000");
    let mut client = Client::new(&node);
    assert_eq!(client.ask("set a 1"), "+OK");
    disk.set_full(true);
    let value = "v".repeat(8 << 20);
    let mut acknowledged = 0;
    let refused = loop {
        client
            .send(&format!("*3\r\n$3\r\nSET\r\n$4\r\nk{acknowledged:03}\r\n${}\r\n", value.len()));
        client.send(&value);
        client.send("\r\n");
        let line = client.line();
        if line != "+OK" {
            break line;
        }
        acknowledged += 1;
        assert!(acknowledged < 200, "the disk is full: the spare segments are finite");
    };
    assert!(refused.starts_with("-MISCONF "), "{refused}");
    assert_eq!(client.ask("get a"), "$1");
    assert_eq!(client.line(), "1");
    assert_eq!(client.ask("dbsize"), format!(":{}", acknowledged + 1));
    disk.set_full(false);
    while client.ask("set a 2") != "+OK" {
        std::thread::sleep(Duration::from_millis(5));
    }
    node.finish().unwrap();
}
