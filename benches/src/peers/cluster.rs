//! Three replicas on this machine, as processes of their own: ours and etcd's, driven alike.
//!
//! A connection of the load waits for each of its writes; one thread drives all of them. They go to the
//! leader, which is best for both. What is acknowledged is on the disks of a majority: that is how both
//! come.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::grpc;
use crate::workload::{Connection, KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

/// How many replicas.
const COUNT: usize = 3;
/// How long they may take to elect their first leader.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Three of our nodes.
pub const OURS: Opener = Opener { name: "strandline", open: |dir| open_ours(dir, COUNT) };
/// One of our nodes that stands alone: what replication costs.
pub const ALONE: Opener = Opener { name: "strandline-alone", open: |dir| open_ours(dir, 1) };
/// Three of etcd.
pub const ETCD: Opener = Opener { name: "etcd", open: open_etcd };

/// Where our server's program is.
pub static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Processes that end with this.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have gone already; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Processes {
    fn start(&mut self, mut command: Command, log: &Path) -> Result<()> {
        let output = File::create(log).map_err(Error::io("create", log))?;
        let errors = output.try_clone().map_err(Error::io("open", log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = command.get_program().to_owned();
        self.0.push(command.spawn().map_err(Error::io("start", program))?);
        Ok(())
    }
}

/// Replicas, and where their leader is.
struct Replicas {
    /// Ended when this is dropped.
    _processes: Processes,
    leader: SocketAddr,
    durable_by: String,
    connect: fn(SocketAddr) -> Result<Box<dyn Connection>>,
}

impl Store for Replicas {
    fn durable_by(&self) -> String {
        self.durable_by.clone()
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new((self.connect)(self.leader)?))
    }

    fn connection(&self) -> Option<Result<Box<dyn Connection>>> {
        Some((self.connect)(self.leader))
    }
}

/// Asks until there is a leader.
fn await_leader(
    name: &'static str,
    addresses: &[SocketAddr],
    leads: impl Fn(SocketAddr) -> std::io::Result<bool>,
) -> Result<SocketAddr> {
    let began = Instant::now();
    let mut said = String::new();
    while began.elapsed() < READY_WITHIN {
        for address in addresses {
            match leads(*address) {
                Ok(true) => return Ok(*address),
                Ok(false) => {}
                Err(error) => said = error.to_string(),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Error::NotReady { name, output: format!("no leader: {said}") })
}

fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let failed = || Error::io("bind a port of", "127.0.0.1");
    let listeners = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(failed())?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    addresses.collect::<std::io::Result<_>>().map_err(failed())
}

fn open_ours(dir: &Path, count: usize) -> Result<Box<dyn Store>> {
    let program = PROGRAM.get().expect("it is set before anything is opened");
    let addresses = free_addresses(2 * count)?;
    let (clients, peers) = addresses.split_at(count);
    let list: Vec<String> = (1..)
        .zip(clients.iter().zip(peers))
        .map(|(id, (client, peer))| format!("{id}={client}@{}", peer.port()))
        .collect();
    let mut processes = Processes(Vec::new());
    for (id, client) in (1..).zip(clients) {
        let mut command = Command::new(program);
        command.arg("serve").arg("--dir").arg(dir.join(format!("node-{id}")));
        command.args(["--listen", &client.to_string()]);
        if count > 1 {
            command.args(["--node-id", &id.to_string(), "--cluster", &list.join(",")]);
        }
        processes.start(command, &dir.join(format!("output-{id}")))?;
    }
    let leader = await_leader("strandline", clients, |address| {
        let mut client = Redis::open(address)?;
        Ok(client.ask(&[b"ROLE"])?.windows(6).any(|word| word == b"master")
            && client.ask(&[b"SET", b"ready", b"yes"])?.starts_with(b"+OK"))
    })?;
    let durable_by = super::strandline::durable_by(dir)?;
    let connect = |address| -> Result<Box<dyn Connection>> {
        let client = Redis::open(address).map_err(Error::io("connect to", "strandline"))?;
        Ok(Box::new(client))
    };
    Ok(Box::new(Replicas { _processes: processes, leader, durable_by, connect }))
}

/// A client of ours.
struct Redis {
    stream: TcpStream,
    out: Vec<u8>,
}

impl Redis {
    fn open(address: SocketAddr) -> std::io::Result<Redis> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Redis { stream, out: Vec::new() })
    }

    /// Asks, and returns what comes in one piece.
    fn ask(&mut self, arguments: &[&[u8]]) -> std::io::Result<Vec<u8>> {
        self.send(arguments)?;
        let mut answer = vec![0; 4096];
        let len = self.stream.read(&mut answer)?;
        answer.truncate(len);
        Ok(answer)
    }

    fn send(&mut self, arguments: &[&[u8]]) -> std::io::Result<()> {
        self.out.clear();
        write!(self.out, "*{}\r\n", arguments.len())?;
        for argument in arguments {
            write!(self.out, "${}\r\n", argument.len())?;
            self.out.extend_from_slice(argument);
            self.out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&self.out)
    }
}

impl Connection for Redis {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn begin(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.send(&[b"SET", key, value]).map_err(Error::store("strandline", "set"))
    }

    fn end(&mut self) -> Result<bool> {
        let mut answer = [0; 256];
        let len = self.stream.read(&mut answer).map_err(Error::store("strandline", "set"))?;
        match &answer[..len] {
            b"+OK\r\n" => Ok(true),
            other => {
                Err(Error::store("strandline", "set")(String::from_utf8_lossy(other).into_owned()))
            }
        }
    }
}

fn open_etcd(dir: &Path) -> Result<Box<dyn Store>> {
    let addresses = free_addresses(2 * COUNT)?;
    let (clients, peers) = addresses.split_at(COUNT);
    let list: Vec<String> =
        (1..).zip(peers).map(|(id, peer)| format!("n{id}=http://{peer}")).collect();
    let mut processes = Processes(Vec::new());
    for (id, (client, peer)) in (1..).zip(clients.iter().zip(peers)) {
        let mut command = Command::new("etcd");
        command.env_clear();
        command.args(["--name", &format!("n{id}"), "--log-level", "error", "--data-dir"]);
        command.arg(dir.join(format!("n{id}")));
        for (kind, address) in [("client", client), ("peer", peer)] {
            command.args([format!("--listen-{kind}-urls"), format!("http://{address}")]);
        }
        command.args(["--advertise-client-urls", &format!("http://{client}")]);
        command.args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
        command.args(["--initial-cluster", &list.join(","), "--initial-cluster-state", "new"]);
        processes.start(command, &dir.join(format!("output-{id}")))?;
    }
    let leader = await_leader("etcd", clients, |address| {
        let mut status = grpc::Connection::open(address, "/etcdserverpb.Maintenance/Status")?;
        let answer = status.call(&[])?;
        let header = grpc::message_field(&answer, 1).unwrap_or_default();
        // The header names the member that answers, field 4 the one that leads.
        let member = grpc::number_field(header, 2);
        Ok(member.is_some() && member == grpc::number_field(&answer, 4))
    })?;
    let connect = |address| -> Result<Box<dyn Connection>> {
        let client = grpc::Connection::open(address, "/etcdserverpb.KV/Put");
        Ok(Box::new(Etcd(client.map_err(Error::io("connect to", "etcd"))?)))
    };
    let durable_by = "fdatasync".into();
    Ok(Box::new(Replicas { _processes: processes, leader, durable_by, connect }))
}

/// A client of etcd.
struct Etcd(grpc::Connection);

impl Connection for Etcd {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }

    fn begin(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(KEY_LEN + value.len() + 8);
        grpc::bytes_field(&mut message, 1, key);
        grpc::bytes_field(&mut message, 2, value);
        self.0.begin(&message).map_err(Error::store("etcd", "put"))
    }

    fn end(&mut self) -> Result<bool> {
        self.0.end().map(|answer| answer.is_some()).map_err(Error::store("etcd", "put"))
    }
}
