//! A server process of our own, on a directory of our own, for the demo and the benchmark.
//!
//! It is this very program, run as `serve`. What it prints on standard output is read to its end, so
//! that it never waits for us; what it prints on standard error goes to a file, whose last lines are
//! shown if it does not become ready. A node that is dropped is killed: no path leaves one behind,
//! except the death of this process by SIGKILL.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::scratch;

/// How long a server may take to become ready. Opening replays at most a few memtables.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often an interrupt is looked for while waiting.
const LOOK: Duration = Duration::from_millis(100);
/// How much of a server's log is shown.
const LOG_LINES: usize = 5;

/// A running server.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    address: SocketAddr,
}

impl Node {
    /// Starts a server on `dir` and waits until it is ready. `address` may have port 0, which lets the
    /// system choose. `settings` are further flags of `serve`. Its log is kept in `log`.
    ///
    /// # Errors
    ///
    /// If it cannot be started, ends, or does not become ready within a minute.
    pub(crate) fn start(
        dir: &Path,
        address: SocketAddr,
        settings: &[String],
        log: &Path,
    ) -> Result<Node> {
        let program = program()?;
        let refused =
            |source| Error::Path { operation: "create file", path: log.to_path_buf(), source };
        let log_file = File::create(log).map_err(refused)?;
        let mut command = Command::new(&program);
        // The user's own settings (a password, another directory) are not meant for this server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STRANDLINE_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("serve")
            .arg("--dir")
            .arg(dir)
            .arg("--listen")
            .arg(address.to_string())
            .args(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .map_err(|source| Error::Spawn { program, source })?;
        let stdout = child.stdout.take().expect("standard output was asked to be a pipe");
        // From here on the child is killed whichever way this function ends.
        let mut node = Node { child, address };
        let lines = follow(stdout);
        match node.wait_until_ready(&lines) {
            Ok(address) => node.address = address,
            Err(Error::NotReady { reason, .. }) => {
                return Err(Error::NotReady { reason, log: last_lines(log) });
            }
            Err(error) => return Err(error),
        }
        Ok(node)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it with SIGKILL, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it has ended by itself before: then nothing was shown.
    pub(crate) fn kill(mut self) -> Result<()> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(Error::Answer {
                asked: "to run",
                found: format!("an early end: {status}"),
            });
        }
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait_until_ready(&mut self, lines: &Receiver<String>) -> Result<SocketAddr> {
        let started = Instant::now();
        let not_ready = |reason: String| Error::NotReady { reason, log: String::new() };
        while started.elapsed() < READY_MAX {
            scratch::check()?;
            match lines.recv_timeout(LOOK) {
                Ok(line) if line.contains("ready") => {
                    return address_in(&line).ok_or_else(|| {
                        not_ready(format!("its ready line names no address: {line}"))
                    });
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = match self.child.wait() {
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    };
                    return Err(not_ready(format!("it ended with {status}")));
                }
            }
        }
        Err(not_ready(format!("it said nothing for {} s", READY_MAX.as_secs())))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program. After an upgrade in place the running file has no name any more; then it is still
/// found under `/proc`.
pub(crate) fn program() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .map_err(|source| Error::System { what: "the name of this program", source })?;
    match path.exists() {
        true => Ok(path),
        false => Ok(PathBuf::from("/proc/self/exe")),
    }
}

/// Reads the lines of a server to their end, on a thread of its own.
fn follow(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            // Nobody listens once the server is ready; reading goes on so that it never blocks.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The first word of `line` that is a socket address.
fn address_in(line: &str) -> Option<SocketAddr> {
    let is_around = |letter: char| matches!(letter, ',' | ';' | '.' | '(' | ')' | '"');
    line.split([' ', '=', '\t']).find_map(|word| word.trim_matches(is_around).parse().ok())
}

/// The end of a log, on one line.
fn last_lines(log: &Path) -> String {
    let Ok(text) = std::fs::read_to_string(log) else { return String::new() };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_ready_line() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 6379)));
        for line in
            ["ready on 127.0.0.1:6379", "ready, addr=127.0.0.1:6379.", "(127.0.0.1:6379) ready"]
        {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("ready [::1]:1"), Some("[::1]:1".parse().expect("an address")));
        assert_eq!(address_in("ready"), None);
    }
}
