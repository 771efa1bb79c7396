//! The keys of a log that is encrypted at rest, and the seam for the cipher, which its user brings.
//!
//! The log decides what is encrypted, with which nonce, and what the tag covers; a [`Cipher`] is an authenticated
//! cipher with one key. A [`Keyring`] holds ciphers by the ids of their keys, and says which one new
//! groups get. Each encrypted group names its key, so keys are rotated while the log is open: add the new one, then
//! [encrypt with it](Keyring::encrypt_with). Groups that stand there keep the old one: it is needed
//! until they are trimmed.
//!
//! What is not encrypted, and what this does not protect from, is in `docs/decisions/0043-encryption-at-rest.md`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::{Error, Result};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of a tag.
pub const TAG_LEN: usize = 16;

/// Which key: a number that its owner gives, once. It stands readable in every group that is encrypted with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

impl std::fmt::Display for KeyId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

/// An authenticated cipher with one key.
///
/// It is called while the log is locked: it should be fast, and must not panic. What it is given is at most
/// 256 MiB and some bytes long. The same key, nonce, associated data and bytes must always give the same.
///
/// ```
/// use chacha20poly1305::aead::{AeadInOut, KeyInit};
/// use chacha20poly1305::{XChaCha20Poly1305, XNonce};
/// use strandline_wal::{Cipher, NONCE_LEN, TAG_LEN};
///
/// struct Chacha(XChaCha20Poly1305);
///
/// impl Cipher for Chacha {
///     fn encrypt(
///         &self,
///         nonce: &[u8; NONCE_LEN],
///         associated: &[u8],
///         bytes: &mut [u8],
///     ) -> [u8; TAG_LEN] {
///         let nonce = XNonce::from(*nonce);
///         let tag = self.0.encrypt_inout_detached(&nonce, associated, bytes.into());
///         tag.expect("a group is far shorter than the cipher's bound").into()
///     }
///
///     fn decrypt(
///         &self,
///         nonce: &[u8; NONCE_LEN],
///         associated: &[u8],
///         bytes: &mut [u8],
///         tag: &[u8; TAG_LEN],
///     ) -> bool {
///         let (nonce, tag) = (XNonce::from(*nonce), (*tag).into());
///         self.0.decrypt_inout_detached(&nonce, associated, bytes.into(), &tag).is_ok()
///     }
/// }
///
/// let cipher = Chacha(XChaCha20Poly1305::new(&[7; 32].into()));
/// let mut bytes = *b"at rest";
/// let tag = cipher.encrypt(&[1; NONCE_LEN], b"", &mut bytes);
/// assert_ne!(&bytes, b"at rest");
/// assert!(cipher.decrypt(&[1; NONCE_LEN], b"", &mut bytes, &tag));
/// assert_eq!(&bytes, b"at rest");
/// ```
pub trait Cipher: Send + Sync {
    /// Encrypts `bytes` in place; returns the tag over them and `associated`.
    ///
    /// The first 16 bytes of a nonce are drawn at random whenever a log is opened and whenever it is repaired, the
    /// other 8 count groups from there on. No two groups have the same one. A cipher with a shorter nonce must not cut it:
    /// it takes a key of its own from its key and the first 16 bytes, and the other 8 as the nonce.
    fn encrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> [u8; TAG_LEN];

    /// Decrypts `bytes` in place, if the tag is right. If it is not, whatever they hold then is not used.
    fn decrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool;
}

/// The ciphers of a log, by the ids of their keys. A cheap handle: clones share it, also with logs that are open.
///
/// ```
/// use std::sync::Arc;
/// use strandline_wal::{Cipher, KeyId, Keyring, Options, Result};
///
/// fn settings(year_1: Arc<dyn Cipher>) -> (Keyring, Options) {
///     let keyring = Keyring::new(KeyId(1), year_1);
///     let options = Options { encryption: Some(keyring.clone()), ..Options::default() };
///     (keyring, options)
/// }
///
/// /// Also while logs with this keyring are open: their new groups get the new key.
/// fn rotate(keyring: &Keyring, year_2: Arc<dyn Cipher>) -> Result<()> {
///     keyring.add(KeyId(2), year_2)?;
///     keyring.encrypt_with(KeyId(2))
/// }
/// ```
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<RwLock<Keys>>,
}

struct Keys {
    ciphers: BTreeMap<KeyId, Arc<dyn Cipher>>,
    /// The one that new groups are encrypted with; none if they are not encrypted.
    current: Option<KeyId>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<_> = keys.ciphers.keys().collect();
        out.debug_struct("Keyring").field("keys", &ids).field("current", &keys.current).finish()
    }
}

impl Keyring {
    /// One key, with which new groups are encrypted.
    pub fn new(id: KeyId, cipher: Arc<dyn Cipher>) -> Self {
        let keys = Keys { ciphers: BTreeMap::from([(id, cipher)]), current: Some(id) };
        Self { keys: Arc::new(RwLock::new(keys)) }
    }

    /// No key: new groups are not encrypted, until [`encrypt_with`](Self::encrypt_with) says otherwise. What is
    /// [added](Self::add) is for reading what once was encrypted.
    pub fn for_reading() -> Self {
        let keys = Keys { ciphers: BTreeMap::new(), current: None };
        Self { keys: Arc::new(RwLock::new(keys)) }
    }

    /// Adds a key, for reading.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if there is one of this id: groups that name it would become unreadable.
    pub fn add(&self, id: KeyId, cipher: Arc<dyn Cipher>) -> Result<()> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.ciphers.contains_key(&id) {
            let reason =
                format!("there is a key {id} already: give the other one an id of its own");
            return Err(Error::InvalidOption { reason });
        }
        keys.ciphers.insert(id, cipher);
        Ok(())
    }

    /// From now on new groups are encrypted with this key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if it was not added.
    pub fn encrypt_with(&self, id: KeyId) -> Result<()> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if !keys.ciphers.contains_key(&id) {
            return Err(Error::InvalidOption {
                reason: format!("there is no key {id} to use: add it first"),
            });
        }
        keys.current = Some(id);
        Ok(())
    }

    /// The key for new groups, if they are encrypted.
    pub(crate) fn current(&self) -> Option<(KeyId, Arc<dyn Cipher>)> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let id = keys.current?;
        keys.ciphers.get(&id).map(|cipher| (id, cipher.clone()))
    }

    /// The cipher of this key, if it is there.
    pub(crate) fn cipher(&self, id: KeyId) -> Option<Arc<dyn Cipher>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.ciphers.get(&id).cloned()
    }
}
