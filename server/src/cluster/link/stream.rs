//! The bytes under a link: TCP, or TLS over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use strandline_replication::ReplicaId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::error::Result as LinkResult;
use super::handshake::Identity;

/// A connection, before or after it became secret.
pub(crate) enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Secret, and proven by certificates.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

#[cfg(not(feature = "tls"))]
impl Stream {
    pub(super) async fn dialled(
        stream: TcpStream,
        _: &Identity,
        _: ReplicaId,
    ) -> io::Result<Stream> {
        Ok(Stream::Plain(stream))
    }

    pub(super) async fn accepted(stream: TcpStream, _: &Identity) -> io::Result<Stream> {
        Ok(Stream::Plain(stream))
    }

    pub(super) fn check_certificate(&self, _: ReplicaId) -> LinkResult<()> {
        Ok(())
    }
}

#[cfg(feature = "tls")]
impl Stream {
    /// A connection that was dialled to this node; secret if it is to be.
    pub(super) async fn dialled(
        stream: TcpStream,
        identity: &Identity,
        called: ReplicaId,
    ) -> io::Result<Stream> {
        match &identity.tls {
            Some(tls) => Ok(Stream::Tls(Box::new(tls.connect(stream, called).await?))),
            None => Ok(Stream::Plain(stream)),
        }
    }

    /// A connection that was accepted; secret if it is to be.
    pub(super) async fn accepted(stream: TcpStream, identity: &Identity) -> io::Result<Stream> {
        match &identity.tls {
            Some(tls) => Ok(Stream::Tls(Box::new(tls.accept(stream).await?))),
            None => Ok(Stream::Plain(stream)),
        }
    }

    /// Whether the certificate, if there is one, is of the node that the other end says it is.
    pub(super) fn check_certificate(&self, claimed: ReplicaId) -> LinkResult<()> {
        match self {
            Stream::Tls(stream) if !crate::cluster::tls::is_from(stream, claimed) => {
                Err(super::Error::Certificate { claimed })
            }
            _ => Ok(()),
        }
    }
}

macro_rules! delegate {
    ($stream:expr, $method:ident, $($argument:expr),*) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, context)
    }
}
