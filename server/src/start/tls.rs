//! TLS between the nodes, as the settings have it, where this program was built with it.

use std::path::Path;
use std::thread::JoinHandle;

use super::{Error, Result};
use crate::cluster::{Inbox, Nodes, Peers, Security};
use crate::config::Config;

#[cfg(feature = "tls")]
pub(super) use crate::cluster::tls::Tls;
/// There is none.
#[cfg(not(feature = "tls"))]
pub(super) enum Tls {}

/// What the settings name, if they do.
pub(super) fn load(config: &Config) -> Result<Option<Tls>> {
    let names = ["cluster-tls-cert", "cluster-tls-key", "cluster-tls-ca"];
    let files = names.map(|name| config.get(name));
    if files == [""; 3] {
        return Ok(None);
    }
    if let Some(missing) = names.iter().find(|name| config.get(name).is_empty()) {
        let text = format!(
            "TLS between the nodes needs a certificate, its key and the authority: name --{missing} \
             too; strandline cluster certificates makes all of them"
        );
        return Err(Error::Tls(text));
    }
    open(files.map(Path::new)).map(Some)
}

#[cfg(feature = "tls")]
fn open([certificate, key, authority]: [&Path; 3]) -> Result<Tls> {
    Tls::load(certificate, key, authority).map_err(|error| Error::Tls(error.to_string()))
}

#[cfg(not(feature = "tls"))]
fn open(_: [&Path; 3]) -> Result<Tls> {
    Err(Error::Tls("this program was built without TLS: use --cluster-secret-file".into()))
}

/// The links, over TLS if there is any.
pub(super) fn start(
    nodes: Nodes,
    listener: std::net::TcpListener,
    security: Security,
    tls: Option<Tls>,
    inbox: Inbox,
) -> std::io::Result<(Peers, JoinHandle<std::io::Result<()>>)> {
    match tls {
        None => Peers::start(nodes, listener, security, inbox),
        #[cfg(feature = "tls")]
        Some(tls) => Peers::start_with_tls(nodes, listener, security, tls, inbox),
        #[cfg(not(feature = "tls"))]
        Some(tls) => match tls {},
    }
}
