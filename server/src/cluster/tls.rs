//! TLS under the links: what nodes say is secret, and a certificate says which node speaks.
//!
//! Both ends show a certificate of the cluster's own authority. Its name is `node-ID.strandline`, so a
//! certificate speaks for one node only, wherever it runs: hosts may move, and who has taken the key of
//! one node cannot be another. With TLS a secret may be given beside it; then both must be right.
//!
//! Built with the feature `tls`, which is on by default: its cryptography is assembler that needs no C
//! compiler, but a processor of the last ten years; that is asked when TLS is asked for. See
//! `docs/decisions/0015-tls-without-c.md`.

mod certificates;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use strandline_replication::ReplicaId;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use certificates::make as make_certificates;

/// What a node shows, and by what it judges others.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tls(..)")
    }
}

/// Why there is no TLS.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or holds no PEM of that kind.
    File {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be written.
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the key.
    Open {
        /// Its file.
        path: PathBuf,
        /// The file's permission bits.
        mode: u32,
    },
    /// The processor lacks what the cryptography is written for.
    Processor,
    /// The files do not fit together.
    Refused(rustls::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { what, path, reason } => {
                write!(
                    out,
                    "cannot take the {what} from {}: {reason}; it must be PEM",
                    path.display()
                )
            }
            Error::Write { path, source } => {
                write!(out, "cannot write {}: {source}", path.display())
            }
            Error::Open { path, mode } => write!(
                out,
                "{} holds the node's key, and its mode {mode:04o} lets others in; type: chmod 600 '{}'",
                path.display(),
                path.display()
            ),
            Error::Processor => out.write_str(
                "this processor lacks the instructions that TLS is written for; use \
                 --cluster-secret-file, and a tunnel if others can listen",
            ),
            Error::Refused(source) => write!(
                out,
                "certificate, key and authority do not fit together: {source}; the certificate must be \
                 of this key and signed by the authority"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl From<rustls::Error> for Error {
    fn from(source: rustls::Error) -> Self {
        Error::Refused(source)
    }
}

impl Tls {
    /// Reads a node's certificate and key, and the certificate of the cluster's authority.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or makes no sense, others may read the key, or the processor is too old.
    pub fn load(certificate: &Path, key: &Path, authority: &Path) -> Result<Tls, Error> {
        // Otherwise the process would stop at the first connection.
        if !graviola::util::is_cpu_supported() {
            return Err(Error::Processor);
        }
        let refused = |what, path: &Path| {
            let path = path.to_owned();
            move |reason: rustls::pki_types::pem::Error| {
                let reason = reason.to_string();
                Error::File { what, path, reason }
            }
        };
        let mode = std::fs::metadata(key).map_err(|source| Error::File {
            what: "key",
            path: key.to_owned(),
            reason: source.to_string(),
        })?;
        let mode = mode.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: key.to_owned(), mode });
        }
        let own_key = PrivateKeyDer::from_pem_file(key).map_err(refused("key", key))?;
        let own = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(refused("certificate", certificate))?;
        let root =
            CertificateDer::from_pem_file(authority).map_err(refused("authority", authority))?;
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls_graviola::default_provider());
        let versions = &[&rustls::version::TLS13];
        let dialling = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(own.clone(), own_key.clone_key())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let accepting = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own, own_key)?;
        Ok(Tls { connector: Arc::new(dialling).into(), acceptor: Arc::new(accepting).into() })
    }

    /// Makes a connection secret whose other end must be this node.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        to: ReplicaId,
    ) -> io::Result<TlsStream<TcpStream>> {
        Ok(self.connector.connect(name_of(to), stream).await?.into())
    }

    /// Makes a connection secret that was accepted. Which node is at the other end is to be asked.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        Ok(self.acceptor.accept(stream).await?.into())
    }
}

/// Whether the other end has shown the certificate of this node.
pub(super) fn is_from(stream: &TlsStream<TcpStream>, node: ReplicaId) -> bool {
    let (_, state) = stream.get_ref();
    let shown = state.peer_certificates().and_then(|chain| chain.first());
    shown.is_some_and(|certificate| {
        ParsedCertificate::try_from(certificate).is_ok_and(|certificate| {
            rustls::client::verify_server_name(&certificate, &name_of(node)).is_ok()
        })
    })
}

fn name_of(node: ReplicaId) -> ServerName<'static> {
    ServerName::try_from(name_text(node.0)).expect("letters, digits and a dot")
}

/// The name on the certificate of a node.
fn name_text(node: u64) -> String {
    format!("node-{node}.strandline")
}
