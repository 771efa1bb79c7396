//! Accepting connections, up to a bound, and handing them round to the threads of sessions.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};

use crate::event_loop::Post;
use crate::server::Server;

/// How long accepting pauses when the process has run out of file descriptors: they come back only
/// when connections are closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Binds an address. Call within a runtime.
///
/// # Errors
///
/// If the port is taken or the address is not ours.
pub fn bind(address: SocketAddr, backlog: u32) -> std::io::Result<StdListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)?.into_std()
}

/// Accepts until the server is asked to stop.
///
/// # Errors
///
/// If the socket cannot be used.
pub async fn accept(
    server: Arc<Server>,
    listener: StdListener,
    posts: Vec<Arc<Post>>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    for post in posts.iter().cycle() {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = server.shutdown.asked() => return Ok(()),
            };
            match accepted {
                Ok((stream, address)) => {
                    if admit(&server, stream, address, post) {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    Ok(())
}

/// Hands a connection to a thread, or refuses it; false if it went nowhere.
fn admit(server: &Server, stream: tokio::net::TcpStream, address: SocketAddr, post: &Post) -> bool {
    // A client that is gone already is no reason to stop.
    let (Ok(local_address), Ok(()), Ok(stream)) =
        (stream.local_addr(), stream.set_nodelay(true), stream.into_std())
    else {
        return false;
    };
    let keepalive_s = server.live.keepalive_s.load(Ordering::Relaxed);
    set_keepalive(&stream, keepalive_s);
    let clients_max = server.live.clients_max.load(Ordering::Relaxed);
    let Some(client) = server.clients.admit(address, local_address, clients_max) else {
        server.stats.rejected_connections.fetch_add(1, Ordering::Relaxed);
        // The socket's buffer is empty: this does not block, and if it fails the client is gone.
        let _ = (&stream).write(b"-ERR max number of clients reached\r\n");
        return false;
    };
    server.stats.connections.fetch_add(1, Ordering::Relaxed);
    post.connect(stream, client);
    true
}

/// Has the system find out when the other end is gone. That it cannot is no reason to refuse anybody.
fn set_keepalive(stream: &std::net::TcpStream, seconds: u64) {
    if seconds == 0 {
        return;
    }
    let period = Duration::from_secs(seconds);
    let set = rustix::net::sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(stream, period))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepintvl(stream, (period / 3).max(SECOND)))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepcnt(stream, 3));
    if let Err(error) = set {
        tracing::debug!(%error, "keepalive could not be set");
    }
}

const SECOND: Duration = Duration::from_secs(1);
