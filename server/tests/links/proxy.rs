//! A proxy between a node that dials and the one it means to reach. It passes the handshake on, and
//! does mischief to one frame.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Hello and proof: what the dialer says before it sends frames.
const HANDSHAKE_LEN: usize = 72 + 32;
const HEADER_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// A bit of its body is flipped.
    Alter,
    /// It arrives as a frame of another kind.
    Relabel,
    /// It arrives twice.
    Repeat,
    /// It does not arrive.
    Drop,
    /// It arrives after the frame that follows it.
    Swap,
    /// Only half of it arrives; then the connection ends.
    Cut,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// How many connections there were.
    pub(crate) connections: Arc<AtomicU64>,
    /// Done to the first frame whose body begins with `victim`, once.
    pub(crate) mischief: Arc<Mutex<Option<Mischief>>>,
}

impl Proxy {
    /// Starts it in front of this port.
    pub(crate) fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            mischief: Arc::default(),
        };
        let (connections, mischief) = (proxy.connections.clone(), proxy.mischief.clone());
        std::thread::spawn(move || {
            for dialer in listener.incoming() {
                let dialer = dialer.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let Ok(node) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                dialer.set_nodelay(true).unwrap();
                node.set_nodelay(true).unwrap();
                let (mut from, mut back) = (node.try_clone().unwrap(), dialer.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut back);
                    let _ = back.shutdown(Shutdown::Both);
                });
                let mischief = mischief.clone();
                std::thread::spawn(move || {
                    let _ = pass_on(&dialer, &node, &mischief);
                    let _ = dialer.shutdown(Shutdown::Both);
                    let _ = node.shutdown(Shutdown::Both);
                });
            }
        });
        proxy
    }
}

fn pass_on(
    mut dialer: &TcpStream,
    mut node: &TcpStream,
    mischief: &Mutex<Option<Mischief>>,
) -> std::io::Result<()> {
    let mut handshake = [0; HANDSHAKE_LEN];
    for part in handshake.chunks_mut(72) {
        dialer.read_exact(part)?;
        node.write_all(part)?;
    }
    loop {
        let mut frame = read_frame(dialer)?;
        let is_victim = frame[HEADER_LEN..].starts_with(b"victim");
        let done = if is_victim { mischief.lock().unwrap().take() } else { None };
        match done {
            None => node.write_all(&frame)?,
            Some(Mischief::Drop) => {}
            Some(Mischief::Repeat) => {
                node.write_all(&frame)?;
                node.write_all(&frame)?;
            }
            Some(Mischief::Alter) => {
                frame[HEADER_LEN + 3] ^= 16;
                node.write_all(&frame)?;
            }
            Some(Mischief::Relabel) => {
                frame[4] = 2;
                node.write_all(&frame)?;
            }
            Some(Mischief::Swap) => {
                let next = read_frame(dialer)?;
                node.write_all(&next)?;
                node.write_all(&frame)?;
            }
            Some(Mischief::Cut) => {
                node.write_all(&frame[..frame.len() / 2])?;
                return Ok(());
            }
        }
    }
}

fn read_frame(mut dialer: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_LEN];
    dialer.read_exact(&mut frame)?;
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    frame.resize(HEADER_LEN + usize::try_from(len).unwrap() + TAG_LEN, 0);
    dialer.read_exact(&mut frame[HEADER_LEN..])?;
    Ok(frame)
}
