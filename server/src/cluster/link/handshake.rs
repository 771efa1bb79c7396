//! Who is at the other end, on byte slices; see `docs/format/link.md`.
//!
//! ```text
//!   dialer                                   acceptor
//!     | hello: who I am, whom I call, nonce --> |
//!     | <-- hello: who I am, verdict, nonce     |
//!     | proof: HMAC over both hellos ---------> |   a stranger learns nothing that the secret is in:
//!     | <-- answer: verdict, HMAC over both     |   the dialer has to prove itself first
//! ```
//!
//! Both nonces are in what both ends prove, so that no recorded handshake is good for another one. The
//! roles are in it too, so that nobody proves himself with what we have said. The keys of the
//! frames come from the same bytes, so that they differ for each connection and direction.

use std::sync::{Arc, PoisonError, RwLock};

use hmac::Mac;
use strandline_replication::ReplicaId;

use super::error::{Error, Result};
use crate::cluster::nodes::Nodes;
use crate::cluster::secret::{MAC_LEN, Secret};

/// The version of handshake and frames.
pub(crate) const VERSION: u16 = 1;
/// Bytes of a hello.
pub(crate) const HELLO_LEN: usize = NONCE + NONCE_LEN;
/// Bytes of the acceptor's answer to a proof.
pub(crate) const ANSWER_LEN: usize = ANSWER_PROOF + MAC_LEN;
/// Bytes of a proof.
pub(crate) const PROOF_LEN: usize = MAC_LEN;
/// Two ends that draw so many never draw the same.
pub(crate) const NONCE_LEN: usize = 32;

const MAGIC: [u8; 4] = *b"SLLK";
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 4;
const ROLE: usize = VERSION_AT + 2;
const PROTECTION: usize = ROLE + 1;
const VERDICT: usize = PROTECTION + 1;
const RESERVED: usize = VERDICT + 1;
const GROUP: usize = RESERVED + 7;
const FROM: usize = GROUP + 8;
const TO: usize = FROM + 8;
const NONCE: usize = TO + 8;

const ANSWER_VERDICT: usize = 0;
const ANSWER_RESERVED: usize = ANSWER_VERDICT + 1;
const ANSWER_PROOF: usize = ANSWER_RESERVED + 7;

/// What this node says of itself, and by what it judges others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Its id.
    pub(crate) own: ReplicaId,
    /// Its group.
    pub(crate) group: u64,
    /// The nodes, as far as they are known now.
    pub(crate) nodes: Known,
    /// What it shares with them.
    pub(crate) secret: Option<Secret>,
    /// What it shows, and by what it judges what others show.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::cluster::tls::Tls>,
}

/// The nodes, shared by all links: they change while links live.
#[derive(Clone, Debug)]
pub(crate) struct Known(Arc<RwLock<Arc<Nodes>>>);

impl Known {
    pub(crate) fn new(nodes: Nodes) -> Known {
        Known(Arc::new(RwLock::new(Arc::new(nodes))))
    }

    pub(crate) fn get(&self) -> Arc<Nodes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, nodes: Arc<Nodes>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that called, and sends frames.
    Dialer,
    /// The one that was called, and takes them.
    Acceptor,
}

/// What the acceptor says to the dialer. Unproven: it only helps whoever reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    Version,
    Group,
    Node,
    Stranger,
    Protection,
    Secret,
    Certificate,
}

const VERDICTS: [Verdict; 8] = [
    Verdict::Welcome,
    Verdict::Version,
    Verdict::Group,
    Verdict::Node,
    Verdict::Stranger,
    Verdict::Protection,
    Verdict::Secret,
    Verdict::Certificate,
];

impl Verdict {
    fn number(self) -> u8 {
        let place = VERDICTS.iter().position(|verdict| *verdict == self);
        place.and_then(|place| u8::try_from(place).ok()).expect("all of them are in the table")
    }

    /// What is said to a dialer that is refused for this reason.
    pub(crate) fn of(error: &Error) -> Verdict {
        match error {
            Error::Version { .. } => Verdict::Version,
            Error::Group { .. } => Verdict::Group,
            Error::Node { .. } => Verdict::Node,
            Error::Protection { .. } => Verdict::Protection,
            Error::Secret => Verdict::Secret,
            Error::Certificate { .. } => Verdict::Certificate,
            _ => Verdict::Stranger,
        }
    }

    /// What a dialer makes of it that has compared both hellos itself.
    pub(crate) fn check(self, own: ReplicaId) -> Result<()> {
        match self {
            Verdict::Welcome => Ok(()),
            Verdict::Stranger => Err(Error::Stranger { found: own }),
            Verdict::Secret => Err(Error::Secret),
            Verdict::Certificate => Err(Error::Certificate { claimed: own }),
            _ => Err(Error::Hello { reason: "it refuses us for a reason that is not to be seen" }),
        }
    }

    fn from_number(number: u8) -> Result<Verdict> {
        let verdict = VERDICTS.get(usize::from(number)).copied();
        verdict.ok_or(Error::Hello { reason: "the verdict is unknown" })
    }
}

/// The first message of each end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) role: Role,
    pub(crate) is_protected: bool,
    pub(crate) verdict: Verdict,
    pub(crate) group: u64,
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) nonce: [u8; NONCE_LEN],
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT..ROLE].copy_from_slice(&self.version.to_le_bytes());
        bytes[ROLE] = match self.role {
            Role::Dialer => 1,
            Role::Acceptor => 2,
        };
        bytes[PROTECTION] = u8::from(self.is_protected);
        bytes[VERDICT] = self.verdict.number();
        bytes[GROUP..FROM].copy_from_slice(&self.group.to_le_bytes());
        bytes[FROM..TO].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[TO..NONCE].copy_from_slice(&self.to.0.to_le_bytes());
        bytes[NONCE..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Reads the hello of the end with this role.
    ///
    /// # Errors
    ///
    /// [`Error::Magic`] and [`Error::Version`] before anything else is looked at, then [`Error::Hello`].
    pub(crate) fn decode(bytes: &[u8; HELLO_LEN], role: Role) -> Result<Hello> {
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        let version = u16::from_le_bytes([bytes[VERSION_AT], bytes[VERSION_AT + 1]]);
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        match (bytes[ROLE], role) {
            (1, Role::Dialer) | (2, Role::Acceptor) => {}
            // One's own hello, sent back.
            _ => return Err(Error::Hello { reason: "it is not of the other end's role" }),
        }
        let is_protected = match bytes[PROTECTION] {
            0 => false,
            1 => true,
            _ => return Err(Error::Hello { reason: "the protection is unknown" }),
        };
        if bytes[RESERVED..GROUP].iter().any(|byte| *byte != 0) {
            return Err(Error::Hello { reason: "a reserved byte is not zero" });
        }
        let verdict = Verdict::from_number(bytes[VERDICT])?;
        let from = ReplicaId(number_at(bytes, FROM));
        let to = ReplicaId(number_at(bytes, TO));
        // Who refuses may not know whom: only ends that welcome each other have names.
        if verdict == Verdict::Welcome && (from.0 == 0 || to.0 == 0) {
            return Err(Error::Hello { reason: "no node has the id 0" });
        }
        let group = number_at(bytes, GROUP);
        let nonce = array_at(bytes, NONCE);
        Ok(Hello { version, role, is_protected, verdict, group, from, to, nonce })
    }
}

impl Identity {
    /// Of the own node of the list, without TLS.
    pub(crate) fn new(nodes: &Nodes, secret: Option<Secret>) -> Identity {
        Identity {
            own: nodes.own,
            group: nodes.group,
            nodes: Known::new(nodes.clone()),
            secret,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Whether others have to prove who they are.
    pub(crate) fn is_protected(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        has_tls || self.secret.is_some()
    }

    /// The hello to another node.
    pub(crate) fn hello(
        &self,
        role: Role,
        to: ReplicaId,
        verdict: Verdict,
        nonce: [u8; NONCE_LEN],
    ) -> Hello {
        Hello {
            version: VERSION,
            role,
            is_protected: self.secret.is_some(),
            verdict,
            group: self.group,
            from: self.own,
            to,
            nonce,
        }
    }

    /// Whether the dialer's hello is for this node and from one that it speaks with.
    pub(crate) fn check_dialer(&self, hello: &Hello) -> Result<()> {
        if hello.group != self.group {
            return Err(Error::Group { found: hello.group, expected: self.group });
        }
        if hello.to != self.own {
            return Err(Error::Node { found: self.own, expected: hello.to });
        }
        if !self.nodes.get().may_call(hello.from) {
            return Err(Error::Stranger { found: hello.from });
        }
        if hello.is_protected != self.secret.is_some() {
            return Err(Error::Protection { is_ours: self.secret.is_some() });
        }
        Ok(())
    }

    /// Whether the acceptor's hello is from the node that was called and is to be spoken with. What
    /// this end sees for itself counts before what it is told.
    pub(crate) fn check_acceptor(&self, hello: &Hello, called: ReplicaId) -> Result<()> {
        if hello.group != self.group {
            return Err(Error::Group { found: hello.group, expected: self.group });
        }
        if hello.from != called {
            return Err(Error::Node { found: hello.from, expected: called });
        }
        if hello.is_protected != self.secret.is_some() {
            return Err(Error::Protection { is_ours: self.secret.is_some() });
        }
        hello.verdict.check(self.own)?;
        if hello.to != self.own {
            return Err(Error::Hello { reason: "it is for another node" });
        }
        Ok(())
    }
}

/// Both hellos, as they went over the wire: what is proven, and what keys come from.
#[derive(Clone, Debug)]
pub(crate) struct Transcript {
    pub(crate) dialer: [u8; HELLO_LEN],
    pub(crate) acceptor: [u8; HELLO_LEN],
}

impl Transcript {
    fn mac(&self, secret: &Secret, label: &[u8; LABEL_LEN]) -> hmac::Hmac<sha2::Sha256> {
        // Every part has a fixed length, so no two inputs run together.
        secret.mac().chain_update(label).chain_update(self.dialer).chain_update(self.acceptor)
    }

    /// What the end with this role sends to prove that it has the secret; zeros without one.
    pub(crate) fn proof(&self, secret: Option<&Secret>, role: Role) -> [u8; PROOF_LEN] {
        let mut proof = [0; PROOF_LEN];
        if let Some(secret) = secret {
            let mac = self.mac(secret, proof_label(role));
            proof.copy_from_slice(&mac.finalize().into_bytes());
        }
        proof
    }

    /// Whether the end with this role has the secret. How long that takes tells nothing.
    pub(crate) fn verify(
        &self,
        secret: Option<&Secret>,
        role: Role,
        proof: &[u8; PROOF_LEN],
    ) -> Result<()> {
        match secret {
            Some(secret) => {
                self.mac(secret, proof_label(role)).verify_slice(proof).map_err(|_| Error::Secret)
            }
            None if *proof == [0; PROOF_LEN] => Ok(()),
            None => Err(Error::Protection { is_ours: false }),
        }
    }

    /// The key of the frames that the end with this role sends; none without a secret.
    pub(crate) fn key(&self, secret: Option<&Secret>, role: Role) -> Option<[u8; MAC_LEN]> {
        let label = match role {
            Role::Dialer => b"link 1 dialer key       ",
            Role::Acceptor => b"link 1 acceptor key     ",
        };
        let secret = secret?;
        let mut key = [0; MAC_LEN];
        key.copy_from_slice(&self.mac(secret, label).finalize().into_bytes());
        Some(key)
    }
}

/// What an HMAC over the transcript is for. All are equally long.
const LABEL_LEN: usize = 24;

fn proof_label(role: Role) -> &'static [u8; LABEL_LEN] {
    match role {
        Role::Dialer => b"link 1 dialer proves    ",
        Role::Acceptor => b"link 1 acceptor proves  ",
    }
}

/// The acceptor's answer to a proof.
pub(crate) fn encode_answer(verdict: Verdict, proof: &[u8; PROOF_LEN]) -> [u8; ANSWER_LEN] {
    let mut bytes = [0; ANSWER_LEN];
    bytes[ANSWER_VERDICT] = verdict.number();
    bytes[ANSWER_PROOF..].copy_from_slice(proof);
    bytes
}

/// Reads the acceptor's answer to a proof.
///
/// # Errors
///
/// [`Error::Hello`] if it is none.
pub(crate) fn decode_answer(bytes: &[u8; ANSWER_LEN]) -> Result<(Verdict, [u8; PROOF_LEN])> {
    if bytes[ANSWER_RESERVED..ANSWER_PROOF].iter().any(|byte| *byte != 0) {
        return Err(Error::Hello { reason: "a reserved byte of the answer is not zero" });
    }
    Ok((Verdict::from_number(bytes[ANSWER_VERDICT])?, array_at(bytes, ANSWER_PROOF)))
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    *bytes[at..].first_chunk().expect("offsets are constants within the message")
}
