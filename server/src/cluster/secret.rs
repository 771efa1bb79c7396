//! What the nodes of a cluster share, and nobody else has.
//!
//! A node proves that it has the secret by an HMAC-SHA256 over what both ends of a link have said; the
//! secret itself never leaves the process. It is read from a file that nobody but its owner may read,
//! because whoever has it can be a node and change the log.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit};
use sha2::Sha256;

/// Shorter ones could be guessed from one recorded handshake.
pub const SECRET_LEN_MIN: usize = 16;
/// Longer ones add nothing, and whoever names a large file by mistake is told.
pub const SECRET_LEN_MAX: usize = 1024;
/// Bytes of a proof and of a key.
pub const MAC_LEN: usize = 32;

/// The secret of a cluster.
#[derive(Clone)]
pub struct Secret {
    /// Invariant: `SECRET_LEN_MIN` to `SECRET_LEN_MAX` bytes.
    bytes: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// Why there is no secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change the file.
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It has not between [`SECRET_LEN_MIN`] and [`SECRET_LEN_MAX`] bytes.
    Length {
        /// How many it has, blanks at both ends not counted.
        found: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read { path, source } => write!(
                out,
                "cannot read the cluster's secret from {}: {source}; name a file that this user can \
                 read with --cluster-secret-file",
                path.display()
            ),
            Error::Open { path, mode } => write!(
                out,
                "{} holds the cluster's secret, and its mode {mode:04o} lets others in; type: chmod \
                 600 '{}'",
                path.display(),
                path.display()
            ),
            Error::Length { found } => write!(
                out,
                "the cluster's secret has {found} bytes, and {SECRET_LEN_MIN} to {SECRET_LEN_MAX} are \
                 needed; make one with: head -c 32 /dev/urandom | base64"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl Secret {
    /// Reads the secret from a file. Blanks and line ends around it do not count.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, others may read it, or the secret is too short or too long.
    pub fn load(path: &Path) -> Result<Secret, Error> {
        let refused = |source| Error::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(refused)?;
        // Asked of the open file, not of the path: what is checked is what is read.
        let mode = file.metadata().map_err(refused)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        // Twice as much as is allowed: for the blanks, and to tell that it is too long.
        let limit = u64::try_from(2 * SECRET_LEN_MAX).expect("a constant");
        file.take(limit).read_to_end(&mut bytes).map_err(refused)?;
        Secret::new(&bytes)
    }

    /// This secret, without the blanks around it.
    ///
    /// # Errors
    ///
    /// If it is too short or too long.
    pub fn new(bytes: &[u8]) -> Result<Secret, Error> {
        let bytes = bytes.trim_ascii();
        if !(SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&bytes.len()) {
            return Err(Error::Length { found: bytes.len() });
        }
        Ok(Secret { bytes: bytes.to_vec() })
    }

    /// Begins an HMAC with the secret as its key.
    pub(super) fn mac(&self) -> Hmac<Sha256> {
        mac(&self.bytes)
    }
}

/// Begins an HMAC with this key.
pub(super) fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use hmac::Mac;

    use super::*;

    #[test]
    fn a_secret_is_trimmed_and_long_enough() {
        assert_eq!(Secret::new(b" 0123456789abcdef\r\n").unwrap().bytes, b"0123456789abcdef");
        for wrong in [&b""[..], b"0123456789abcde   \n", &[b'x'; SECRET_LEN_MAX + 1]] {
            assert!(matches!(Secret::new(wrong), Err(Error::Length { .. })));
        }
        assert_eq!(format!("{:?}", Secret::new(&[b'x'; 16]).unwrap()), "Secret(..)");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let name = format!("strandline-secret-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let mut found = Vec::new();
        for mode in [0o640, 0o604, 0o620, 0o600, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            found.push(Secret::load(&path));
        }
        std::fs::remove_file(&path).unwrap();
        for refused in &found[..3] {
            let text = refused.as_ref().unwrap_err().to_string();
            assert!(text.contains("chmod 600"), "{text}");
        }
        assert!(found[3..].iter().all(Result::is_ok));
        assert!(matches!(Secret::load(&path), Err(Error::Read { .. })));
    }

    #[test]
    fn the_hmac_is_the_one_of_rfc_4231() {
        let mut mac = mac(b"Jefe");
        mac.update(b"what do ya want for nothing?");
        let found: String =
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
