//! A cluster of processes, formed with `cluster init`; nodes are killed, stopped and started again.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use crate::directory::Directory;
use crate::process::{Client, PATIENCE, await_answer, serve};

/// How long a session may take to answer a write before it calls it unknown.
const WRITE_TIMEOUT_MS: &str = "20000";

/// Runs the program to its end.
pub(crate) fn strandline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strandline")).args(args).output().unwrap()
}

/// A list of so many nodes on ports that nobody uses now.
pub(crate) fn node_list(count: usize) -> (Vec<u16>, String) {
    let listeners: Vec<_> =
        (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> =
        listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let (clients, peers) = ports.split_at(count);
    let nodes: Vec<String> = (clients.iter().zip(peers).zip(1..))
        .map(|((client, peer), id)| format!("{id}=127.0.0.1:{client}@{peer}"))
        .collect();
    (clients.to_vec(), nodes.join(","))
}

/// Some nodes; a place is a number less one.
pub(crate) struct Cluster {
    pub(crate) dir: Directory,
    ports: Vec<u16>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Forms and starts a cluster that has a leader.
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, |_| "")
    }

    /// The same, whose links go over TLS.
    pub(crate) fn start_with_tls(count: usize) -> Self {
        Self::form(count, &["--tls"], |_| "")
    }

    /// The same with lines behind those of the file of settings of a node.
    pub(crate) fn start_with(count: usize, settings: impl Fn(usize) -> &'static str) -> Self {
        Self::form(count, &[], settings)
    }

    fn form(count: usize, options: &[&str], settings: impl Fn(usize) -> &'static str) -> Self {
        let dir = Directory::new();
        let (ports, list) = node_list(count);
        let mut args = vec!["cluster", "init", &list, "--dir", dir.0.to_str().unwrap()];
        args.extend(options);
        let made = strandline(&args);
        assert!(made.status.success(), "{made:?}");
        let children = (0..count).map(|_| None).collect();
        let mut cluster = Self { dir, ports, children };
        for place in 0..count {
            let file = OpenOptions::new().append(true).open(cluster.settings(place));
            writeln!(file.unwrap(), "{}", settings(place)).unwrap();
        }
        (0..count).for_each(|place| cluster.restart(place));
        cluster.leader();
        cluster
    }

    pub(crate) fn restart(&mut self, place: usize) {
        let settings = self.settings(place);
        self.children[place] = Some(serve(|command| {
            command
                .arg("--config")
                .arg(settings)
                .env("STRANDLINE_WRITE_TIMEOUT_MS", WRITE_TIMEOUT_MS);
        }));
    }

    /// The file of settings of a node.
    pub(crate) fn settings(&self, place: usize) -> PathBuf {
        self.dir.0.join(format!("node-{}.toml", place + 1))
    }

    /// kill -9
    pub(crate) fn kill(&mut self, place: usize) {
        if let Some(mut child) = self.children[place].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn signal(&self, place: usize, name: &str) {
        let child = self.children[place].as_ref().unwrap();
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn client(&self, place: usize) -> Client {
        Client::connect(self.ports[place]).unwrap()
    }

    /// A client, if the node is there.
    pub(crate) fn try_client(&self, place: usize) -> Option<Client> {
        Client::connect(self.ports[place])
    }

    /// Which node leads, once all that run say the same, and none is in doubt: until then the first
    /// election may need all of them.
    pub(crate) fn leader(&self) -> usize {
        let running = |place: &usize| self.children[*place].is_some();
        let places: Vec<usize> = (0..self.ports.len()).filter(running).collect();
        let began = Instant::now();
        let is_sure = |place: &usize| {
            let client = self.try_client(*place);
            client
                .is_some_and(|mut client| client.ask("info replication").contains("doubt:nothing"))
        };
        while !places.iter().all(is_sure) {
            assert!(began.elapsed() < PATIENCE, "a node is in doubt");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.leader_among(&places)
    }

    /// Which of these leads, once all of them say the same.
    pub(crate) fn leader_among(&self, places: &[usize]) -> usize {
        let began = Instant::now();
        loop {
            let told: Vec<Option<usize>> = places.iter().map(|place| self.told(*place)).collect();
            if let Some(Some(leader)) = told.first()
                && places.contains(leader)
                && told.iter().all(|other| other == &Some(*leader))
            {
                return *leader;
            }
            assert!(began.elapsed() < PATIENCE, "no leader: {told:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Who leads, as a node says.
    fn told(&self, place: usize) -> Option<usize> {
        let text = Client::connect(self.ports[place])?.ask("info replication");
        let id = text.lines().find_map(|line| line.strip_prefix("leader_id:"))?;
        id.trim().parse::<usize>().ok()?.checked_sub(1)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for place in 0..self.children.len() {
            if let Some(child) = &mut self.children[place] {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Client {
    /// Asks until the answer is this.
    pub(crate) fn await_answer(&mut self, line: &str, expected: &str) {
        await_answer(line, || Some(self.ask(line)), |answer| answer == expected);
    }

    /// Asks until there is this in the answer.
    pub(crate) fn await_word(&mut self, line: &str, word: &str) {
        await_answer(line, || Some(self.ask(line)), |answer| answer.contains(word));
    }
}
