//! Whole nodes' links, on loopback: frames there and back, restarts, strangers, and a network that
//! lies.

#![allow(clippy::unwrap_used)]

mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proxy::{Mischief, Proxy};
use strandline_replication::ReplicaId;
use strandline_server::cluster::peers::QUEUE_BYTES_MAX;
use strandline_server::cluster::{Book, Frame, Inbox, Node, Nodes, Peers, Secret, Security};

const ONE: ReplicaId = ReplicaId(1);
const TWO: ReplicaId = ReplicaId(2);
const THREE: ReplicaId = ReplicaId(3);
const SECRET: &str = "the secret of these tests";

type Started = (Peers, JoinHandle<std::io::Result<()>>);

/// A node's links, and what has come in.
struct Running {
    peers: Peers,
    thread: JoinHandle<std::io::Result<()>>,
    inbox: Receiver<(ReplicaId, Frame)>,
}

impl Running {
    fn start(nodes: Nodes, listener: TcpListener, secret: Option<&str>) -> Running {
        let secret = secret.map(|secret| Secret::new(secret.as_bytes()).unwrap());
        Running::from(|take| Peers::start(nodes, listener, Security { secret }, take))
    }

    fn from(start: impl FnOnce(Inbox) -> std::io::Result<Started>) -> Running {
        let (sender, inbox) = mpsc::channel();
        let take: Inbox = Arc::new(move |from, frame| {
            // A test that has seen enough listens no more.
            let _ = sender.send((from, frame));
        });
        let (peers, thread) = start(take).unwrap();
        Running { peers, thread, inbox }
    }

    #[cfg(feature = "tls")]
    fn start_with_tls(nodes: Nodes, listener: TcpListener) -> Running {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls");
        let [certificate, key] =
            ["pem", "key"].map(|kind| dir.join(format!("node-{}.{kind}", nodes.own)));
        // A checkout does not keep this.
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let tls = strandline_server::cluster::tls::Tls::load(
            &certificate,
            &key,
            &dir.join("authority.pem"),
        );
        let security = Security::default();
        Running::from(|take| Peers::start_with_tls(nodes, listener, security, tls.unwrap(), take))
    }

    fn stop(self) -> Vec<(ReplicaId, Frame)> {
        self.peers.stop();
        self.thread.join().unwrap().unwrap();
        self.inbox.try_iter().collect()
    }

    fn next(&self) -> (ReplicaId, Frame) {
        self.inbox.recv_timeout(HANGS_AFTER).unwrap()
    }

    /// Sends as soon as there is a connection.
    fn send(&self, to: ReplicaId, frame: &Frame) {
        wait_for(|| self.peers.send(to, frame.clone()));
    }
}

/// When a test is taken to hang: far beyond what a machine with other things to do may need.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// Waits for what must happen.
fn wait_for(mut has_happened: impl FnMut() -> bool) {
    let began = Instant::now();
    while !has_happened() {
        assert!(began.elapsed() < HANGS_AFTER, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// Nodes 1, 2, ... that are reached at these ports.
fn nodes(own: u64, ports: &[u16]) -> Nodes {
    let list: Vec<String> =
        (1..).zip(ports).map(|(id, port)| format!("{id}=127.0.0.1:{id}@{port}")).collect();
    Nodes::parse(own, &list.join(",")).unwrap()
}

/// Starts a node in each of the ways in which nodes know each other.
fn ways() -> Vec<fn(Nodes, TcpListener) -> Running> {
    vec![
        |nodes, listener| Running::start(nodes, listener, None),
        |nodes, listener| Running::start(nodes, listener, Some(SECRET)),
        #[cfg(feature = "tls")]
        Running::start_with_tls,
    ]
}

fn message(text: &str) -> Frame {
    Frame::Replica(text.as_bytes().to_vec())
}

#[test]
fn frames_arrive_once_and_in_order_on_every_link() {
    for start in ways() {
        let listeners = [listener(), listener(), listener()];
        let ports: Vec<u16> = listeners.iter().map(port).collect();
        let cluster: Vec<Running> =
            (1..).zip(listeners).map(|(id, listener)| start(nodes(id, &ports), listener)).collect();
        // Long and short ones, so that some are copied together and some are not.
        let frames = |from: u64, to: u64| {
            (0..60_usize).map(move |number| {
                let len = [0, 10, 1000, 40_000][number % 4] + if number == 7 { 900_000 } else { 0 };
                let byte = u8::try_from(from * 100 + to * 10 + 1).unwrap_or(255);
                let mut body = vec![byte; len];
                body.extend_from_slice(&number.to_le_bytes());
                match number % 3 {
                    0 => Frame::Replica(body),
                    1 => Frame::Forward(body),
                    _ if len < 1000 => Frame::Status(body),
                    _ => Frame::ForwardAnswer(body),
                }
            })
        };
        for from in 1..=3_u64 {
            let sender = &cluster[usize::try_from(from - 1).unwrap()];
            for to in (1..=3).filter(|to| *to != from) {
                for frame in frames(from, to) {
                    sender.send(ReplicaId(to), &frame);
                }
                assert!(sender.peers.is_connected(ReplicaId(to)));
            }
            assert!(!sender.peers.send(ReplicaId(from), message("to itself")));
            assert!(!sender.peers.send(ReplicaId(9), message("to nobody")));
        }
        for (to, node) in (1..).zip(&cluster) {
            let mut expected: Vec<_> = (0..=3).map(|from| frames(from, to)).collect();
            for _ in 0..120 {
                let (from, frame) = node.next();
                let place = usize::try_from(from.0).unwrap();
                assert!(Some(frame) == expected[place].next(), "from {from} to {to}");
            }
        }
        for node in cluster {
            assert!(node.stop().is_empty(), "nothing arrives twice");
        }
    }
}

#[test]
fn a_node_with_another_secret_stays_outside() {
    // Node 1 reaches the others through a proxy each, so that its attempts are counted.
    let listeners = [listener(), listener(), listener()];
    let proxies: Vec<Proxy> =
        listeners.iter().map(|listener| Proxy::start(port(listener))).collect();
    let ports: Vec<u16> = proxies.iter().map(|proxy| proxy.port).collect();
    let secrets = [SECRET, SECRET, "a secret of somebody else"];
    let [one, two, three]: [Running; 3] = (1..)
        .zip(listeners)
        .zip(secrets)
        .map(|((id, listener), secret)| Running::start(nodes(id, &ports), listener, Some(secret)))
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "three")
        .unwrap();
    one.send(TWO, &message("among us"));
    assert_eq!(two.next(), (ONE, message("among us")));
    wait_for(|| proxies[2].connections.load(Ordering::SeqCst) >= 6);
    for (node, to) in [(&one, THREE), (&two, THREE), (&three, ONE), (&three, TWO)] {
        assert!(!node.peers.is_connected(to));
        assert!(!node.peers.send(to, message("to a stranger")));
    }
    assert!(three.stop().is_empty());
    one.stop();
    two.stop();
}

/// Goal: whatever happens to a frame on the way, no frame arrives that was not sent at that place; and
/// the next link works. Method: one frame is the victim, others go before and after it.
#[test]
fn what_the_network_changes_does_not_arrive() {
    let mischiefs = [
        Mischief::Alter,
        Mischief::Relabel,
        Mischief::Repeat,
        Mischief::Drop,
        Mischief::Swap,
        Mischief::Cut,
    ];
    for mischief in mischiefs {
        let listeners = [listener(), listener()];
        let proxy = Proxy::start(port(&listeners[1]));
        let ports = [port(&listeners[0]), proxy.port];
        let [one, two] = listeners;
        let one = Running::start(nodes(1, &ports), one, Some(SECRET));
        let two = Running::start(nodes(2, &ports), two, Some(SECRET));
        one.send(TWO, &message("before"));
        assert_eq!(two.next(), (ONE, message("before")), "{mischief:?}");

        *proxy.mischief.lock().unwrap() = Some(mischief);
        one.send(TWO, &message("victim"));
        wait_for(|| {
            // Until a link is made that was not meddled with.
            one.peers.send(TWO, message("behind"));
            proxy.connections.load(Ordering::SeqCst) >= 2
        });
        one.send(TWO, &message("after"));
        let mut victims = 0;
        loop {
            match two.next().1 {
                frame if frame == message("after") => break,
                frame if frame == message("victim") => victims += 1,
                frame => assert_eq!(frame, message("behind"), "{mischief:?}"),
            }
        }
        // What is repeated was once in its place.
        assert_eq!(victims, u64::from(mischief == Mischief::Repeat), "{mischief:?}");
        one.stop();
        two.stop();
    }
}

#[test]
fn a_node_that_restarts_is_linked_again() {
    let listeners = [listener(), listener()];
    let ports = [port(&listeners[0]), port(&listeners[1])];
    let [one, two] = listeners;
    let one = Running::start(nodes(1, &ports), one, Some(SECRET));
    let mut two = Running::start(nodes(2, &ports), two, Some(SECRET));
    for round in ["first", "second", "third"] {
        one.send(TWO, &message(round));
        assert_eq!(two.next(), (ONE, message(round)));
        two.send(ONE, &message(round));
        assert_eq!(one.next(), (TWO, message(round)));
        let peers = two.peers.clone();
        two.stop();
        assert!(!peers.is_connected(ONE), "a node that has stopped is connected to none");
        assert!(!peers.send(ONE, message("too late")));
        wait_for(|| !one.peers.is_connected(TWO));
        assert!(!one.peers.send(TWO, message("into the void")));
        let listener = Peers::bind(&nodes(2, &ports)).unwrap();
        two = Running::start(nodes(2, &ports), listener, Some(SECRET));
    }
    one.stop();
    two.stop();
}

#[test]
fn what_waits_for_a_node_that_does_not_take_it_is_bounded() {
    let listeners = [listener(), listener()];
    let ports = [port(&listeners[0]), port(&listeners[1])];
    let [one, two] = listeners;
    let one = Running::start(nodes(1, &ports), one, None);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let behind = gate.clone();
    let inbox: Inbox = Arc::new(move |_, _| {
        let open = behind.0.lock().unwrap();
        drop(behind.1.wait_while(open, |open| !*open).unwrap());
    });
    let (peers, thread) = Peers::start(nodes(2, &ports), two, Security::default(), inbox).unwrap();
    let frame = Frame::Replica(vec![7; 1 << 20]);
    one.send(TWO, &frame);
    let mut accepted = frame.body().len();
    // Refused because it is full, or because the link was given up meanwhile.
    while one.peers.send(TWO, frame.clone()) {
        accepted += frame.body().len();
        // Beside the queue: what the system holds for both ends, and one read.
        assert!(accepted < 2 * QUEUE_BYTES_MAX, "there is no bound");
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    one.send(TWO, &frame);
    one.stop();
    peers.stop();
    thread.join().unwrap().unwrap();
}

#[test]
fn strangers_do_not_keep_nodes_out() {
    let listeners = [listener(), listener()];
    let ports = [port(&listeners[0]), port(&listeners[1])];
    let [one, two] = listeners;
    let two = Running::start(nodes(2, &ports), two, Some(SECRET));
    // More than may wait, and all of them say nothing or nonsense.
    let strangers: Vec<TcpStream> = (0..150_u8)
        .map(|number| {
            let mut stranger = TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
            let garbage = vec![number; usize::from(number)];
            // The node may have closed already.
            let _ = stranger.write_all(&garbage);
            stranger
        })
        .collect();
    let one = Running::start(nodes(1, &ports), one, Some(SECRET));
    one.send(TWO, &message("in spite of them"));
    assert_eq!(two.next(), (ONE, message("in spite of them")));
    for mut stranger in strangers {
        let mut said = Vec::new();
        let _ = stranger.read_to_end(&mut said);
        assert!(said.is_empty(), "a stranger is told nothing");
    }
    one.stop();
    assert!(two.stop().is_empty());
}

#[test]
fn without_a_secret_there_are_no_links_beyond_this_machine() {
    let nodes = Nodes::parse(1, "1=127.0.0.1:1@2,2=192.0.2.1:1@2").unwrap();
    let inbox: Inbox = Arc::new(|_, _| {});
    let refused = Peers::start(nodes, listener(), Security::default(), inbox).unwrap_err();
    assert!(refused.to_string().contains("--cluster-secret-file"), "{refused}");
}

#[test]
fn a_bug_in_the_inbox_ends_the_thread_and_nothing_is_queued_any_more() {
    let listeners = [listener(), listener()];
    let ports = [port(&listeners[0]), port(&listeners[1])];
    let [one, two] = listeners;
    let one = Running::start(nodes(1, &ports), one, None);
    let inbox: Inbox = Arc::new(|_, _| panic!("on purpose"));
    let (peers, thread) = Peers::start(nodes(2, &ports), two, Security::default(), inbox).unwrap();
    wait_for(|| peers.is_connected(ONE));
    one.send(TWO, &message("the last one"));
    assert!(thread.join().is_err());
    assert!(!peers.is_connected(ONE));
    assert!(!peers.send(ONE, message("nobody sends it")));
    one.stop();
}

/// Goal: who comes later is let in, learns who the others are, and who is removed is let go.
#[test]
fn a_node_that_joins_learns_the_book_and_one_that_is_removed_is_not_called_any_more() {
    let listeners = [listener(), listener(), listener()];
    let ports: Vec<u16> = listeners.iter().map(port).collect();
    let [one, two, three] = listeners;
    let before = nodes(1, &ports[..2]);
    let one = Running::start(before.clone(), one, Some(SECRET));
    let two = Running::start(nodes(2, &ports[..2]), two, Some(SECRET));
    // It knows nobody but itself.
    let own = Node::parse(&format!("3=127.0.0.1:3@{}", ports[2])).unwrap();
    let alone = Nodes::parse(3, &own.to_string()).unwrap();
    let joins = Running::start(alone.clone(), three, Some(SECRET));
    one.send(TWO, &message("two are there"));
    assert_eq!(two.next(), (ONE, message("two are there")));

    let book = Book { index: 5, id_last: 3, list: before.list_with(Ok(&own)) };
    let with = before.after(&book).unwrap();
    one.peers.update(Arc::new(with.clone()), book.clone());
    let told = Frame::Book(book.encode());
    assert_eq!(joins.next(), (ONE, told.clone()));
    assert_eq!(two.next(), (ONE, told.clone()));
    joins.peers.update(Arc::new(alone.after(&book).unwrap()), book.clone());
    joins.send(TWO, &message("from who joined"));
    // Two knows nothing of three yet, but its number is higher than all that it knows.
    assert_eq!(two.next(), (THREE, told));
    assert_eq!(two.next(), (THREE, message("from who joined")));

    let book = Book { index: 9, id_last: 3, list: with.list_with(Err(TWO)) };
    one.peers.update(Arc::new(with.after(&book).unwrap()), book.clone());
    assert!(!one.peers.send(TWO, message("to who is gone")));
    wait_for(|| !two.peers.is_connected(ONE));
    one.send(THREE, &message("we are left"));
    assert_eq!(joins.next(), (ONE, Frame::Book(book.encode())));
    assert_eq!(joins.next(), (ONE, message("we are left")));
    one.stop();
    two.stop();
    joins.stop();
}
