//! A node in a process of its own, and a client that speaks to it in lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Starts `strandline serve` and waits until it is ready.
pub(crate) fn serve(prepare: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strandline"));
    command.arg("serve").stdout(Stdio::piped()).stderr(Stdio::null());
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready"), "{line:?}");
    child
}

/// A client that sends lines.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// A connection, if the node is there.
    pub(crate) fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Self(BufReader::new(stream)))
    }

    /// The answer as text: arrays with blanks between, errors with the `-` before them.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.take().unwrap_or_else(|error| format!("(no answer: {error})"))
    }

    /// Sends without waiting for the answer.
    pub(crate) fn send(&mut self, line: &str) {
        // If the node is gone, that shows when the answer is taken.
        let _ = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes());
    }

    /// Takes the next answer.
    pub(crate) fn take(&mut self) -> std::io::Result<String> {
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
                let count: usize = rest.parse().unwrap();
                let parts: std::io::Result<Vec<String>> = (0..count).map(|_| self.take()).collect();
                Ok(parts?.join(" "))
            }
            ":" | "+" => Ok(rest.to_owned()),
            _ => Ok(line.to_owned()),
        }
    }
}

/// Asks until the answer is as wanted, and returns it.
pub(crate) fn await_answer(
    line: &str,
    mut ask: impl FnMut() -> Option<String>,
    is_wanted: impl Fn(&str) -> bool,
) -> String {
    let began = Instant::now();
    loop {
        match ask() {
            Some(answer) if is_wanted(&answer) => return answer,
            answer => assert!(began.elapsed() < PATIENCE, "{line}: {answer:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
