//! Handshakes that must fail, each with the reason that both ends see; the golden file.

use std::collections::BTreeMap;

use tokio::net::TcpListener;

use super::handshake::{Known, decode_answer, encode_answer};
use super::*;
use crate::cluster::nodes::Nodes;
use crate::cluster::secret::Secret;

const SECRET: &[u8] = b"a secret of the golden file";

fn identity(own: u64, secret: Option<&[u8]>) -> Identity {
    // Node 4 was removed: there is a higher id.
    let ids = [1, 2, 3, 9].into_iter().chain((own == 4).then_some(4));
    let list: Vec<String> = ids.map(|id| format!("{id}=n{id}:1@2")).collect();
    Identity {
        own: ReplicaId(own),
        group: 1,
        nodes: Known::new(Nodes::parse(own, &list.join(",")).unwrap()),
        secret: secret.map(|secret| Secret::new(secret).unwrap()),
        #[cfg(feature = "tls")]
        tls: None,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// `dialer` calls node `called` and reaches `acceptor`.
fn meet(dialer: &Identity, called: u64, acceptor: &Identity) -> (Result<Link>, Result<Link>) {
    block_on(async {
        let (dialled, accepted) = pair().await;
        let mut caller = None;
        tokio::join!(
            Link::dial(dialled, dialer, ReplicaId(called)),
            Link::accept(accepted, acceptor, &mut caller)
        )
    })
}

/// What the acceptor makes of these bytes, and how many it sends.
fn accept_bytes(bytes: &[u8]) -> (Error, Vec<u8>) {
    block_on(async {
        let (mut dialled, accepted) = pair().await;
        dialled.write_all(bytes).await.unwrap();
        dialled.shutdown().await.unwrap();
        let mut caller = None;
        let acceptor = identity(2, Some(SECRET));
        let error = Link::accept(accepted, &acceptor, &mut caller).await.map(|_| ()).unwrap_err();
        let mut said = Vec::new();
        // Closing with unread bytes resets the connection; what was said before is what counts.
        let _ = dialled.read_to_end(&mut said).await;
        (error, said)
    })
}

macro_rules! assert_refused {
    ($met:expr, $dialer:pat $(if $if_dialer:expr)?, $acceptor:pat $(if $if_acceptor:expr)?) => {
        let (dialled, accepted) = $met;
        let (dialled, accepted) = (dialled.err().unwrap(), accepted.err().unwrap());
        assert!(matches!(dialled, $dialer $(if $if_dialer)?), "the dialer sees: {dialled:?}");
        assert!(matches!(accepted, $acceptor $(if $if_acceptor)?), "the acceptor sees: {accepted:?}");
    };
}

#[test]
fn both_ends_know_who_is_there() {
    for secret in [None, Some(SECRET)] {
        let (dialled, accepted) = meet(&identity(1, secret), 2, &identity(2, secret));
        assert_eq!(dialled.unwrap().peer, ReplicaId(2));
        assert_eq!(accepted.unwrap().peer, ReplicaId(1));
    }
}

#[test]
fn both_ends_see_why_they_do_not_agree() {
    let (one, two) = (identity(1, Some(SECRET)), identity(2, Some(SECRET)));
    let other = identity(2, Some(b"another secret of some length"));
    assert_refused!(meet(&one, 2, &other), Error::Secret, Error::Secret);
    let bare = identity(2, None);
    assert_refused!(
        meet(&one, 2, &bare),
        Error::Protection { is_ours: true },
        Error::Protection { is_ours: false }
    );
    assert_refused!(
        meet(&bare, 1, &one),
        Error::Protection { is_ours: false },
        Error::Protection { is_ours: true }
    );
    assert_refused!(
        meet(&one, 3, &two),
        Error::Node { found: ReplicaId(2), expected: ReplicaId(3) },
        Error::Node { found: ReplicaId(2), expected: ReplicaId(3) }
    );
    assert_refused!(
        meet(&identity(4, Some(SECRET)), 2, &two),
        Error::Stranger { found: ReplicaId(4) },
        Error::Stranger { found: ReplicaId(4) }
    );
    // A node that was started with the id of the one that it calls.
    assert_refused!(
        meet(&two, 2, &two),
        Error::Stranger { found: ReplicaId(2) },
        Error::Stranger { found: ReplicaId(2) }
    );
    let elsewhere = Identity { group: 7, ..two };
    assert_refused!(
        meet(&one, 2, &elsewhere),
        Error::Group { found: 7, expected: 1 },
        Error::Group { found: 1, expected: 7 }
    );
}

#[test]
fn who_speaks_something_else_is_told_nothing() {
    let mut wrong_role = Identity::hello(
        &identity(1, Some(SECRET)),
        Role::Acceptor,
        ReplicaId(2),
        Verdict::Welcome,
        [0; NONCE_LEN],
    );
    let request = [&b"GET / HTTP/1.1\r\n"[..], &[b'x'; HELLO_LEN]].concat();
    let (error, said) = accept_bytes(&request);
    assert!(matches!(error, Error::Magic { found } if found == *b"GET "), "{error:?}");
    assert!(said.is_empty());
    let (error, said) = accept_bytes(&wrong_role.encode());
    assert!(matches!(error, Error::Hello { .. }), "{error:?}");
    assert!(said.is_empty());
    let (error, said) = accept_bytes(&wrong_role.encode()[..HELLO_LEN - 1]);
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    assert!(said.is_empty());
    // Another version is told ours, so that whoever reads its log knows.
    wrong_role.version = VERSION + 1;
    let (error, said) = accept_bytes(&wrong_role.encode());
    assert!(matches!(error, Error::Version { found } if found == VERSION + 1), "{error:?}");
    let told = Hello::decode(said.as_slice().try_into().unwrap(), Role::Acceptor).unwrap();
    assert_eq!((told.version, told.verdict), (VERSION, Verdict::Version));
}

#[test]
fn silence_is_given_up() {
    block_on(async {
        let (_dialled, accepted) = pair().await;
        let mut caller = None;
        let error = Link::accept(accepted, &identity(2, None), &mut caller).await.err().unwrap();
        assert!(matches!(error, Error::Late { .. }), "{error:?}");
    });
    block_on(async {
        let (dialled, accepted) = pair().await;
        let (one, two) = (identity(1, None), identity(2, None));
        let mut caller = None;
        let (dialled, accepted) = tokio::join!(
            Link::dial(dialled, &one, ReplicaId(2)),
            Link::accept(accepted, &two, &mut caller)
        );
        let _silent = dialled.unwrap();
        let ended = receive(accepted.unwrap().stream, Opener::new(None), |_, _| Ok(())).await;
        assert!(matches!(ended, Err(Error::Idle)), "{ended:?}");
    });
}

/// Goal: who has no secret cannot use what a node says. He plays the acceptor, and sends back to
/// the dialer what it has sent.
#[test]
fn what_a_node_says_does_not_prove_the_same_to_itself() {
    let one = identity(1, Some(SECRET));
    let mirror = async |stream: TcpStream, is_hello_mended: bool| {
        let mut stream = Stream::Plain(stream);
        let mut hello: [u8; HELLO_LEN] = read(&mut stream, "hello").await.unwrap();
        if is_hello_mended {
            let two = identity(2, Some(SECRET));
            let nonce = Hello::decode(&hello, Role::Dialer).unwrap().nonce;
            hello = two.hello(Role::Acceptor, ReplicaId(1), Verdict::Welcome, nonce).encode();
        }
        stream.write_all(&hello).await.unwrap();
        if is_hello_mended {
            let proof: [u8; PROOF_LEN] = read(&mut stream, "proof").await.unwrap();
            stream.write_all(&encode_answer(Verdict::Welcome, &proof)).await.unwrap();
        }
    };
    for is_hello_mended in [false, true] {
        let (dialled, ()) = block_on(async {
            let (dialled, accepted) = pair().await;
            let dial = Link::dial(dialled, &one, ReplicaId(2));
            tokio::join!(dial, mirror(accepted, is_hello_mended))
        });
        let error = dialled.err().unwrap();
        match is_hello_mended {
            // Its own hello says that it is from node 1, and is a dialer's.
            false => assert!(matches!(error, Error::Hello { .. }), "{error:?}"),
            true => assert!(matches!(error, Error::Secret), "{error:?}"),
        }
    }
}

#[test]
fn a_recorded_handshake_is_good_for_nothing() {
    let one = identity(1, Some(SECRET));
    let recorded = block_on(async {
        let (dialled, accepted) = pair().await;
        let mut accepted = Stream::Plain(accepted);
        let record = async {
            let dialer: [u8; HELLO_LEN] = read(&mut accepted, "hello").await.unwrap();
            let two = identity(2, Some(SECRET));
            let own = two.hello(Role::Acceptor, ReplicaId(1), Verdict::Welcome, [9; NONCE_LEN]);
            accepted.write_all(&own.encode()).await.unwrap();
            let proof: [u8; PROOF_LEN] = read(&mut accepted, "proof").await.unwrap();
            let transcript = Transcript { dialer, acceptor: own.encode() };
            let secret = two.secret.as_ref();
            transcript.verify(secret, Role::Dialer, &proof).unwrap();
            let answer = transcript.proof(secret, Role::Acceptor);
            accepted.write_all(&encode_answer(Verdict::Welcome, &answer)).await.unwrap();
            [&dialer[..], &proof].concat()
        };
        let (dialled, recorded) = tokio::join!(Link::dial(dialled, &one, ReplicaId(2)), record);
        dialled.unwrap();
        recorded
    });
    let (error, said) = accept_bytes(&recorded);
    assert!(matches!(error, Error::Secret), "{error:?}");
    let answer = decode_answer(said[HELLO_LEN..].try_into().unwrap()).unwrap();
    assert_eq!(answer, (Verdict::Secret, [0; PROOF_LEN]));
}

/// The sections of the golden file, by their titles.
fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let text = include_str!("../../../testdata/format/v1/link.txt");
    let mut sections = BTreeMap::new();
    let mut title = "";
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if !line.starts_with(' ') {
            title = line;
            continue;
        }
        let hex = line.split_whitespace().last().unwrap();
        let bytes: &mut Vec<u8> = sections.entry(title).or_default();
        let digits = hex.as_bytes().chunks(2);
        bytes.extend(
            digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()),
        );
    }
    sections
}

#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let golden = golden();
    let (one, two) = (identity(1, Some(SECRET)), identity(2, Some(SECRET)));
    let nonce = |first: u8| std::array::from_fn(|at| first + u8::try_from(at).unwrap());
    let dialer = one.hello(Role::Dialer, ReplicaId(2), Verdict::Welcome, nonce(0));
    let acceptor = two.hello(Role::Acceptor, ReplicaId(1), Verdict::Welcome, nonce(32));
    assert_eq!(dialer.encode()[..], golden["dialer's hello"]);
    assert_eq!(acceptor.encode()[..], golden["acceptor's hello"]);
    assert_eq!(Hello::decode(&dialer.encode(), Role::Dialer).unwrap(), dialer);
    assert_eq!(Hello::decode(&acceptor.encode(), Role::Acceptor).unwrap(), acceptor);

    let transcript = Transcript { dialer: dialer.encode(), acceptor: acceptor.encode() };
    let secret = one.secret.as_ref();
    let proof = transcript.proof(secret, Role::Dialer);
    assert_eq!(proof[..], golden["dialer's proof"]);
    let proof = transcript.proof(secret, Role::Acceptor);
    let answer = encode_answer(Verdict::Welcome, &proof);
    assert_eq!(answer[..], golden["acceptor's answer"]);
    assert_eq!(decode_answer(&answer).unwrap(), (Verdict::Welcome, proof));
    let dialer_key = transcript.key(secret, Role::Dialer).unwrap();
    let acceptor_key = transcript.key(secret, Role::Acceptor).unwrap();
    assert_eq!(dialer_key[..], golden["dialer's key, never sent"]);
    assert_eq!(acceptor_key[..], golden["acceptor's key, never sent"]);

    let mut sealer = Sealer::new(Some(dialer_key));
    for (title, frame) in [
        ("dialer's frame 0: replica", Frame::Replica(b"message".to_vec())),
        ("dialer's frame 1: forward", Frame::Forward(Vec::new())),
        ("dialer's frame 2: forward answer", Frame::ForwardAnswer(b"OK".to_vec())),
        ("dialer's frame 3: status", Frame::Status(b"well".to_vec())),
    ] {
        let sealed = sealer.seal(&frame);
        assert_eq!([&sealed.header[..], frame.body(), sealed.tag()].concat(), golden[title]);
    }
    let (mut dialers, mut acceptors) = (Vec::new(), Vec::new());
    sealer.beat(&mut dialers);
    assert_eq!(dialers, golden["dialer's frame 4: beat"]);
    Sealer::new(Some(acceptor_key)).beat(&mut acceptors);
    assert_eq!(acceptors, golden["acceptor's frame 0: beat"]);
}

#[cfg(feature = "tls")]
mod with_tls {
    use super::*;
    use crate::cluster::tls::Tls;

    /// Node `own`, with these files.
    fn certified(own: u64, files: &str, authority: &str) -> Identity {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls");
        let key = dir.join(format!("{files}.key"));
        // A checkout does not keep this.
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (certificate, authority) = (dir.join(format!("{files}.pem")), dir.join(authority));
        let tls = Tls::load(&certificate, &key, &authority).unwrap();
        Identity { tls: Some(tls), ..identity(own, None) }
    }

    fn sound(own: u64) -> Identity {
        certified(own, &format!("node-{own}"), "authority.pem")
    }

    #[test]
    fn both_ends_know_who_is_there() {
        let (dialled, accepted) = meet(&sound(1), 2, &sound(2));
        assert_eq!(dialled.unwrap().peer, ReplicaId(2));
        let accepted = accepted.unwrap();
        assert_eq!(accepted.peer, ReplicaId(1));
        assert!(matches!(accepted.stream, Stream::Tls(_)));
    }

    #[test]
    fn a_certificate_speaks_for_one_node_of_one_cluster() {
        let posing = certified(1, "node-3", "authority.pem");
        let one = ReplicaId(1);
        assert_refused!(
            meet(&posing, 2, &sound(2)),
            Error::Certificate { claimed } if claimed == one,
            Error::Certificate { claimed } if claimed == one
        );
        let posing = certified(2, "node-3", "authority.pem");
        assert_refused!(meet(&sound(1), 2, &posing), Error::Io { .. }, Error::Io { .. });
        let elsewhere = certified(1, "other-node-1", "other-authority.pem");
        assert_refused!(meet(&elsewhere, 2, &sound(2)), Error::Io { .. }, _);
        // It trusts us, and we do not trust it.
        let elsewhere = certified(1, "other-node-1", "authority.pem");
        let (_, accepted) = meet(&elsewhere, 2, &sound(2));
        assert!(matches!(accepted.err().unwrap(), Error::Io { .. }));
    }

    #[test]
    fn who_has_none_is_told_so() {
        let (dialled, accepted) = meet(&sound(1), 2, &identity(2, None));
        let (dialled, accepted) = (dialled.err().unwrap(), accepted.err().unwrap());
        assert!(accepted.to_string().contains("speaks TLS"), "{accepted}");
        assert!(dialled.is_ordinary(), "{dialled}");
        let (dialled, accepted) = meet(&identity(1, None), 2, &sound(2));
        assert!(dialled.is_err() && accepted.is_err());
    }
}
