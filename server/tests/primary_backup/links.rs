//! A link that is cut anywhere, and one that changes bits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::Process;
use crate::process::PATIENCE;

/// What a proxy does to each connection, decided by its number.
struct Proxy {
    port: u16,
    /// Connections so far.
    count: Arc<AtomicU64>,
}

impl Proxy {
    /// In front of the node at `port`. The first `bad` connections are cut, or, every other one, have a
    /// bit changed, after some bytes from the node; later ones are left alone.
    fn start(port: u16, bad: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let (Ok(client), Ok(node)) = (client, TcpStream::connect(("127.0.0.1", port)))
                else {
                    continue;
                };
                let up = (client.try_clone().unwrap(), node.try_clone().unwrap());
                std::thread::spawn(move || carry(up.0, up.1, None));
                // The greeting goes through: it is text, and not what is tried here.
                let fault = (number < bad).then(|| (400 + number * 977, number % 2 == 1));
                std::thread::spawn(move || carry(node, client, fault));
            }
        });
        Self { port: own, count }
    }
}

/// Carries bytes until an end closes. At the byte `fault.0` the link is cut, or a bit changes.
fn carry(mut from: TcpStream, mut to: TcpStream, mut fault: Option<(u64, bool)>) {
    let mut bytes = [0; 4096];
    let mut carried = 0;
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        let end = carried + u64::try_from(len).unwrap();
        let mut kept = len;
        if let Some((at, changes)) = fault
            && at < end
        {
            let place = usize::try_from(at - carried).unwrap();
            match changes {
                true => bytes[place] ^= 4,
                false => kept = place,
            }
            fault = None;
        }
        if to.write_all(&bytes[..kept]).is_err() || kept < len {
            break;
        }
        carried = end;
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_link_that_breaks_anywhere_brings_everything_in_order() {
    const BAD: u64 = 12;
    let primary = Process::start(&[]);
    let backup = Process::start(&[]);
    let proxy = Proxy::start(primary.port, BAD);
    assert_eq!(backup.ask(&format!("replicaof 127.0.0.1 {}", proxy.port)), "OK");
    let mut client = primary.client();
    let began = std::time::Instant::now();
    let mut written = 0;
    while proxy.count.load(Ordering::Relaxed) <= BAD {
        let value = "v".repeat(written % 700);
        assert_eq!(client.ask(&format!("set key:{} {value}.", written % 100)), "OK");
        assert_eq!(client.ask("incr count"), (written + 1).to_string());
        written += 1;
        assert!(began.elapsed() < PATIENCE, "after {written} writes");
    }
    // Bits may have changed in what the backup says, too: nothing was acknowledged that is not there.
    backup.await_link();
    assert_eq!(client.ask("wait 1 60000"), "1");
    assert_eq!(backup.ask("get count"), written.to_string());
    assert_eq!(backup.ask("debug digest"), client.ask("debug digest"));
}
