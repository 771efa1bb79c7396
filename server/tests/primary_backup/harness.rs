//! Nodes in processes of their own, killed with -9 and started again in the same place.

use std::net::TcpListener;
use std::process::Child;

use crate::directory::Directory;
use crate::process::{Client, await_answer, serve};

/// A node that can die and come back.
pub(crate) struct Process {
    pub(crate) dir: Directory,
    pub(crate) port: u16,
    flags: Vec<String>,
    /// Settings of its environment, by name.
    settings: Vec<(&'static str, &'static str)>,
    child: Option<Child>,
}

impl Process {
    /// Starts a node with an empty directory.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[])
    }

    /// The same with settings in its environment: names in capitals, as they are there.
    pub(crate) fn start_with(flags: &[&str], settings: &[(&'static str, &'static str)]) -> Self {
        // Free now, and nobody else's business on this machine.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let settings = settings.to_vec();
        let mut process = Self { dir: Directory::new(), port, flags, settings, child: None };
        process.restart();
        process
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        self.child = Some(serve(|command| {
            command
                .args(["--listen", &format!("127.0.0.1:{}", self.port), "--dir"])
                .arg(&self.dir.0)
                .args(&self.flags)
                .env("STRANDLINE_WRITE_TIMEOUT_MS", "60000")
                .envs(self.settings.iter().copied());
        }));
    }

    /// kill -9
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again with other settings.
    pub(crate) fn restart_with(&mut self, settings: &[(&'static str, &'static str)]) {
        self.settings = settings.to_vec();
        self.restart();
    }

    /// Its disk is replaced by an empty one.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(&self.dir.0).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        client_of(self.port)
    }

    /// One command over a connection of its own, as redis-cli does it.
    pub(crate) fn ask(&self, line: &str) -> String {
        self.client().ask(line)
    }

    /// Waits until the answer to `line` contains `expected`.
    pub(crate) fn await_answer(&self, line: &str, expected: &str) -> String {
        let ask = || Some(authenticated(self.port)?.ask(line));
        await_answer(line, ask, |answer| answer.contains(expected))
    }

    /// Waits until it follows.
    pub(crate) fn await_link(&self) {
        self.await_answer("info replication", "master_link_status:up");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1 {}", self.port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client of the node at this port, with the password of these tests.
pub(crate) fn client_of(port: u16) -> Client {
    authenticated(port).unwrap()
}

/// The same, if the node is there.
fn authenticated(port: u16) -> Option<Client> {
    let mut client = Client::connect(port)?;
    // Without a password this is an error, and does no harm.
    client.ask("auth tide");
    Some(client)
}
