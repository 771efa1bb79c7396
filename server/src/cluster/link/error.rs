//! Why a link was not made, or ended.
//!
//! The text goes to the log, once for each peer and kind until it is mended, so it says what to do.

use std::fmt;
use std::io;

use strandline_replication::ReplicaId;

/// Why a link was not made, or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system, or the network.
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The other end took too long.
    Late {
        /// For what it was waited.
        operation: &'static str,
    },
    /// The other end closed the connection.
    Closed {
        /// For what it was waited.
        operation: &'static str,
    },
    /// Nothing was heard for too long.
    Idle,
    /// What is at the other end does not speak this protocol.
    Magic {
        /// What it sent instead.
        found: [u8; 4],
    },
    /// The other end is of another version.
    Version {
        /// Its version.
        found: u16,
    },
    /// The other end is of another cluster.
    Group {
        /// Its group.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// At the address of one node there is another.
    Node {
        /// Which is there.
        found: ReplicaId,
        /// Which should be.
        expected: ReplicaId,
    },
    /// The caller is not in the list of nodes, and was once or should be.
    Stranger {
        /// Which it says it is.
        found: ReplicaId,
    },
    /// One end has a secret, the other has none.
    Protection {
        /// Whether it is this end that has one.
        is_ours: bool,
    },
    /// The ends have different secrets.
    Secret,
    /// The certificate is not of the node that the other end says it is.
    Certificate {
        /// Which it says it is.
        claimed: ReplicaId,
    },
    /// A hello that makes no sense.
    Hello {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A frame that no node sends.
    Frame {
        /// How many came before it.
        number: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A frame that is not what the other end sent at this place: changed, repeated, or one before it
    /// is missing.
    Altered {
        /// How many came before it.
        number: u64,
    },
}

/// The result of a step on a link.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether it happens when a node stops or the network fails, and mends itself.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Error::Io { .. } | Error::Late { .. } | Error::Closed { .. } | Error::Idle)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { operation, source } => write!(out, "cannot {operation}: {source}"),
            Error::Late { operation } => write!(out, "took too long to {operation}"),
            Error::Closed { operation } => {
                write!(out, "the connection was closed before it could {operation}")
            }
            Error::Idle => out.write_str("nothing was heard for too long"),
            // How a record of a TLS handshake begins.
            Error::Magic { found: [22, 3, ..] } => {
                out.write_str("it speaks TLS and this node does not; give this one its TLS files")
            }
            Error::Magic { found } => write!(
                out,
                "what is there is no node of a cluster: it sent \"{}\"; check the peer port in --cluster",
                found.escape_ascii()
            ),
            Error::Version { found } => write!(
                out,
                "it speaks version {found} of links, this node version {}; run the same release on both",
                super::VERSION
            ),
            Error::Group { found, expected } => write!(
                out,
                "it belongs to cluster {found}, this node to cluster {expected}: check --cluster and --cluster-id \
                 on both"
            ),
            Error::Node { found, expected } => write!(
                out,
                "node {found} answers at the address of node {expected}; --cluster and --node-id must \
                 agree on all nodes"
            ),
            Error::Stranger { found } => write!(
                out,
                "node {found} calls, or is called, and the other does not know it: it was removed from the \
                 cluster, or --cluster is not the same on all nodes"
            ),
            Error::Protection { is_ours: true } => out.write_str(
                "it has no cluster secret and this node has one; start it with the same \
                 --cluster-secret-file",
            ),
            Error::Protection { is_ours: false } => out.write_str(
                "it has a cluster secret and this node has none; start this one with the same \
                 --cluster-secret-file",
            ),
            Error::Secret => out.write_str(
                "it has another cluster secret; give both nodes the same --cluster-secret-file",
            ),
            Error::Certificate { claimed } => write!(
                out,
                "who says that it is node {claimed} has the certificate of another; each node needs one \
                 for its own name, which is node-ID.strandline"
            ),
            Error::Hello { reason } => write!(out, "its first message makes no sense: {reason}"),
            Error::Frame { number, reason } => {
                write!(out, "frame {number} of the link makes no sense: {reason}")
            }
            Error::Altered { number } => write!(
                out,
                "frame {number} of the link is not what was sent: somebody or something between the \
                 nodes changes, repeats or drops bytes"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
