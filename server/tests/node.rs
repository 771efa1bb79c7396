//! A node of its own on a real disk, spoken to over sockets.

#![allow(clippy::unwrap_used)]

#[path = "common/directory.rs"]
mod directory;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use strandline_server::config::{Config, Origin};
use strandline_server::start::{Error, Node, start};

use directory::Directory;

fn config(dir: &Path, settings: &[(&str, &str)]) -> Config {
    let mut config = Config::default();
    // A loaded machine is no reason to call an outcome unknown in these tests.
    let common = [("port", "0"), ("dir", dir.to_str().unwrap()), ("write-timeout-ms", "60000")];
    for (name, value) in common.iter().chain(settings) {
        config.set(name, value, Origin::Command).unwrap();
    }
    config
}

struct Client(TcpStream);

impl Client {
    fn new(node: &Node) -> Self {
        let stream = TcpStream::connect(node.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// As many bytes as `expected` has, compared with it.
    fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    fn ask(&mut self, line: &str, expected: &str) {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(expected);
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

#[test]
fn a_pipeline_is_answered_in_order_however_it_arrives() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let pipeline = b"set a 1\r\nincr a\r\nget a\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$2\r\nx\r\n\r\n\
                     mget a b c\r\nbogus\r\ndel a b\r\nset a 1 xx\r\nset a\r\nincr a\r\ndbsize\r\ndel a\r\n";
    let expected = "+OK\r\n:2\r\n$1\r\n2\r\n+OK\r\n*3\r\n$1\r\n2\r\n$2\r\nx\r\n\r\n$-1\r\n\
                    -ERR unknown command 'bogus', with args beginning with: \r\n:2\r\n$-1\r\n\
                    -ERR wrong number of arguments for 'set' command\r\n:1\r\n:1\r\n:1\r\n";
    // The bulk string holds the line end that the inline form cannot.
    let pipeline =
        String::from_utf8(pipeline.to_vec()).unwrap().replace("$2\r\nx\r\n", "$3\r\nx\r\n");
    let expected = expected.replace("$2\r\nx\r\n\r\n", "$3\r\nx\r\n\r\n");
    let mut client = Client::new(&node);
    client.send(pipeline.as_bytes());
    client.expect(&expected);
    for piece in pipeline.as_bytes().chunks(7) {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(1));
    }
    client.expect(&expected);
    node.finish().unwrap();
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    let mut pipeline = String::new();
    for number in 0..2000 {
        pipeline += &format!("set key:{number} {number}\r\n");
    }
    client.send(pipeline.as_bytes());
    client.expect(&"+OK\r\n".repeat(2000));
    client.ask("set gone 1 px 1", "+OK\r\n");
    client.ask("set later 1 ex 1000", "+OK\r\n");
    client.ask("select 3", "+OK\r\n");
    client.ask("set other 1", "+OK\r\n");
    client.ask("flushdb", "+OK\r\n");
    client.ask("set new 1", "+OK\r\n");
    client.ask("shutdown", "");
    assert_eq!(client.rest(), "");
    node.finish().unwrap();

    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    client.ask("get key:1999", "$4\r\n1999\r\n");
    client.ask("get gone", "$-1\r\n");
    client.ask("persist later", ":1\r\n");
    client.ask("select 3", "+OK\r\n");
    client.ask("keys *", "*1\r\n$3\r\nnew\r\n");
    client.ask("dbsize", ":1\r\n");
    client.ask("select 0", "+OK\r\n");
    client.ask("del gone", ":0\r\n");
    client.ask("dbsize", ":2001\r\n");
    node.finish().unwrap();
}

#[test]
fn a_stranger_gets_nothing_but_the_handshake() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[("requirepass", "tide")])).unwrap();
    let mut client = Client::new(&node);
    client.ask("get a", "-NOAUTH Authentication required.\r\n");
    client.ask("nonsense", "-NOAUTH Authentication required.\r\n");
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    client.ask("auth low", wrong);
    client.ask("auth other tide", wrong);
    client.ask("hello 3 auth default low", wrong);
    client.ask("auth tide", "+OK\r\n");
    client.ask("get a", "$-1\r\n");
    client.ask("hello 3 auth default tide setname me", "%7\r\n");
    let mut stranger = Client::new(&node);
    stranger.send(b"*11\r\n");
    assert_eq!(stranger.rest(), "-ERR Protocol error: unauthenticated multibulk length\r\n");
    let mut stranger = Client::new(&node);
    stranger.send(b"*2\r\n$3\r\nGET\r\n$16385\r\n");
    assert_eq!(stranger.rest(), "-ERR Protocol error: unauthenticated bulk length\r\n");
    node.finish().unwrap();
}

#[test]
fn one_client_too_many_is_told_so() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[("maxclients", "2")])).unwrap();
    let mut clients = [Client::new(&node), Client::new(&node)];
    clients.iter_mut().for_each(|client| client.ask("ping", "+PONG\r\n"));
    assert_eq!(Client::new(&node).rest(), "-ERR max number of clients reached\r\n");
    let [mut first, second] = clients;
    drop(second);
    // The place is free as soon as the server has seen the other one go.
    let mut third = loop {
        let mut third = Client::new(&node);
        third.send(b"ping\r\n");
        let mut answer = [0; 7];
        if third.0.read_exact(&mut answer).is_ok() && answer == *b"+PONG\r\n" {
            break third;
        }
    };
    third.ask("client kill type normal skipme yes", ":1\r\n");
    assert_eq!(first.rest(), "");
    third.ask("client kill type normal skipme no", ":1\r\n");
    assert_eq!(third.rest(), "");
    node.finish().unwrap();
}

#[test]
fn large_values_pass_and_too_large_ones_are_refused() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    let value = vec![b'v'; 20 << 20];
    client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", value.len()).as_bytes());
    client.send(&value);
    client.send(b"\r\n");
    client.expect("+OK\r\n");
    client.ask("strlen big", ":20971520\r\n");
    let too_long = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
    client.ask("setrange big 33554430 xx", too_long);
    client.ask("setrange big 99999999999 xx", too_long);
    client.send(b"get big\r\n");
    client.expect(&format!("${}\r\n", value.len()));
    let mut back = vec![0; value.len() + 2];
    client.0.read_exact(&mut back).unwrap();
    assert!(back.starts_with(&value));
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$33554433\r\n");
    let refused = "-ERR Protocol error: an argument of 33554433 bytes is over the limit of \
                   33554432 bytes\r\n";
    assert_eq!(client.rest(), refused);
    node.finish().unwrap();
}

/// Found by Redis's own suite: tools write back what they have read, look for `slaveof`, and expect
/// that a setting of the start is refused rather than ignored.
#[test]
fn settings_are_shown_and_refused_as_tools_expect() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    client.ask("config set bind 127.0.0.1 daemonize no", "+OK\r\n");
    let fixed = |name: &str| {
        format!(
            "-ERR CONFIG SET failed (possibly related to argument '{name}') - can't set immutable \
             config\r\n"
        )
    };
    client.ask("config set daemonize yes", &fixed("daemonize"));
    client.ask("config set maxclients 9 bind 127.0.0.2", &fixed("bind"));
    client.ask("config get maxclients", "*2\r\n$10\r\nmaxclients\r\n$5\r\n10000\r\n");
    client.ask("config get slave*f", "*2\r\n$7\r\nslaveof\r\n$0\r\n\r\n");
    client.ask("config get key-load-*", "*0\r\n");
    client.ask("config get key-load-delay", "*2\r\n$14\r\nkey-load-delay\r\n$1\r\n0\r\n");
    client.send(b"*2\r\n$6\r\nclient\r\n$4\r\ninfo\r\n");
    let mut line = vec![0; 60];
    client.0.read_exact(&mut line).unwrap();
    while !line.ends_with(b"\r\n") || line.len() < 100 {
        let mut byte = [0];
        client.0.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    let line = String::from_utf8(line).unwrap();
    assert!(line.contains(" qbuf=26 ") && line.contains(" cmd=client|info "), "{line}");
    node.finish().unwrap();
}

#[test]
fn replies_can_be_switched_off() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    client.send(b"client reply off\r\nset a 1\r\nget a\r\nbogus\r\nclient reply on\r\n");
    client.expect("+OK\r\n");
    client.send(b"client reply skip\r\nset a 2\r\nget a\r\nclient reply skip\r\nget a\r\nping\r\n");
    client.expect("$1\r\n2\r\n+PONG\r\n");
    node.finish().unwrap();
}

#[test]
fn memory_acknowledges_at_once_and_reads_its_own_writes() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[("appendfsync", "everysec")])).unwrap();
    let mut client = Client::new(&node);
    for number in 0..100 {
        client.send(format!("set a {number}\r\nget a\r\n").as_bytes());
        let text = number.to_string();
        client.expect(&format!("+OK\r\n${}\r\n{text}\r\n", text.len()));
    }
    client.ask("config set appendfsync always", "+OK\r\n");
    client.ask("incr a", ":100\r\n");
    client.ask("waitaof 1 0 0", "*2\r\n:1\r\n:0\r\n");
    node.finish().unwrap();
}

#[test]
fn expired_and_flushed_keys_are_deleted_in_the_background() {
    let dir = Directory::new();
    let node = start(config(&dir.0, &[])).unwrap();
    let mut client = Client::new(&node);
    for number in 0..1500 {
        client.send(format!("set key:{number} v px 1\r\n").as_bytes());
    }
    client.expect(&"+OK\r\n".repeat(1500));
    client.ask("set stays v", "+OK\r\n");
    loop {
        client.send(b"dbsize\r\n");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            let mut byte = [0];
            client.0.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        if answer == b":1\r\n" {
            break;
        }
    }
    node.finish().unwrap();
}

#[test]
fn usual_mistakes_are_told_before_anything_is_served() {
    let dir = Directory::new();
    let public = start(config(&dir.0, &[("bind", "0.0.0.0")]));
    assert!(matches!(public, Err(Error::Public(_))));
    let node = start(config(&dir.0, &[])).unwrap();
    let port = node.addresses()[0].port().to_string();
    let other = Directory::new();
    let taken = start(config(&other.0, &[("port", &port)]));
    assert!(matches!(taken, Err(Error::Listen { .. })));
    let locked = start(config(&dir.0, &[]));
    let text = locked.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("is locked"), "{text}");
    node.finish().unwrap();
    let insecure = start(config(&dir.0, &[("bind", "0.0.0.0"), ("insecure", "yes")])).unwrap();
    insecure.finish().unwrap();
}
