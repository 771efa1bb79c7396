//! A server as a child process, on a free port and in a directory of its own.
//!
//! It is asked PING until it answers; its output goes to a file, whose end is shown when it does
//! not. Dropping it kills it: nothing outlives the comparison.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Error, Result};

/// How long a server may take to answer for the first time: a new log fills its spare files first.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long is waited between two questions.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How much of a server's output is shown.
const OUTPUT_SHOWN: usize = 500;

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// Removed after the child has gone.
    dir: TempDir,
}

impl Server {
    /// Starts a server and waits until it answers. `command` makes the command line from its
    /// directory and port.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not answer.
    pub fn start(
        name: &'static str,
        below: &Path,
        command: impl FnOnce(&Path, u16) -> Command,
    ) -> Result<Server> {
        let dir = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(below)
            .map_err(Error::io("create a directory in", below))?;
        let address = free_address()?;
        let log = dir.path().join("output");
        let output = File::create(&log).map_err(Error::io("create", &log))?;
        let errors = output.try_clone().map_err(Error::io("open", &log))?;
        let mut command = command(dir.path(), address.port());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = command.get_program().to_owned();
        let child = command.spawn().map_err(Error::io("start", program))?;
        let mut server = Server { child, address, dir };
        let started = Instant::now();
        loop {
            if ping(address).is_ok() {
                return Ok(server);
            }
            let gone = server.child.try_wait().map_err(Error::io("wait for", name))?.is_some();
            if gone || started.elapsed() > READY_WITHIN {
                let output = std::fs::read_to_string(&log).unwrap_or_default();
                let skipped = output.chars().count().saturating_sub(OUTPUT_SHOWN);
                return Err(Error::NotReady {
                    name,
                    output: output.chars().skip(skipped).collect(),
                });
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(Error::io("bind a port of", "127.0.0.1"))
}

/// Asks once.
fn ping(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    match &answer {
        b"+PONG\r\n" => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_dies_shows_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = Server::start("dying", dir.path(), |_, _| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no room at the inn; exit 3"]);
            command
        })
        .unwrap_err();
        assert!(error.to_string().contains("no room at the inn"), "{error}");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            Server::start("missing", dir.path(), |_, _| Command::new("no-such-program-here"))
                .unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
    }
}
