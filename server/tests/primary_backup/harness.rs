//! Nodes in processes of their own, killed with -9 and started again in the same place.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("strandline-backup-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

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
        let mut child = Command::new(env!("CARGO_BIN_EXE_strandline"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port), "--dir"])
            .arg(&self.dir.0)
            .args(&self.flags)
            .env("STRANDLINE_WRITE_TIMEOUT_MS", "60000")
            .envs(self.settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line:?}");
        self.child = Some(child);
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
        Client::new(self.port)
    }

    /// One command over a connection of its own, as redis-cli does it.
    pub(crate) fn ask(&self, line: &str) -> String {
        self.client().ask(line)
    }

    /// Waits until the answer to `line` contains `expected`.
    pub(crate) fn await_answer(&self, line: &str, expected: &str) -> String {
        let began = Instant::now();
        loop {
            let answer = Client::connect(self.port).map(|mut client| {
                client.ask("auth tide");
                client.ask(line)
            });
            match answer {
                Some(answer) if answer.contains(expected) => return answer,
                _ if began.elapsed() > PATIENCE => panic!("{line}: {answer:?}, not {expected}"),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
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

/// A client that sends lines.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Self(BufReader::new(stream)))
    }

    pub(crate) fn new(port: u16) -> Self {
        let mut client = Self::connect(port).unwrap();
        // Without a password this is an error, and does no harm.
        client.try_ask("auth tide").unwrap();
        client
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).unwrap_or_else(|error| format!("(no answer: {error})"))
    }

    /// The answer as text; arrays with blanks between.
    pub(crate) fn try_ask(&mut self, line: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        match kind {
            "$" if rest == "-1" => Ok("(nil)".into()),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => {
                let items: std::io::Result<Vec<String>> =
                    (0..rest.parse::<usize>().unwrap()).map(|_| self.reply()).collect();
                Ok(items?.join(" "))
            }
            _ => Ok(rest.to_owned()),
        }
    }
}
