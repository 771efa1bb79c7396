//! A real cipher for tests, which notices a nonce that it was given before.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use strandline_wal::{Cipher, KeyId, Keyring, NONCE_LEN, TAG_LEN};

/// XChaCha20-Poly1305 with the key that consists of this byte.
pub(crate) struct Chacha {
    cipher: XChaCha20Poly1305,
    /// The nonces that were encrypted with, if they are looked at.
    seen: Option<Mutex<HashSet<[u8; NONCE_LEN]>>>,
}

impl Chacha {
    pub(crate) fn of(byte: u8) -> Arc<Self> {
        Arc::new(Self { cipher: XChaCha20Poly1305::new(&[byte; 32].into()), seen: None })
    }

    /// One that panics when a nonce comes twice.
    pub(crate) fn strict(byte: u8) -> Arc<Self> {
        let cipher = XChaCha20Poly1305::new(&[byte; 32].into());
        Arc::new(Self { cipher, seen: Some(Mutex::default()) })
    }

    /// How many nonces there were.
    pub(crate) fn seen(&self) -> usize {
        self.seen.as_ref().unwrap().lock().unwrap().len()
    }
}

impl Cipher for Chacha {
    fn encrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let is_new = self.seen.as_ref().is_none_or(|seen| seen.lock().unwrap().insert(*nonce));
        assert!(is_new, "the nonce {nonce:?} comes twice");
        let nonce = XNonce::from(*nonce);
        self.cipher.encrypt_inout_detached(&nonce, associated, bytes.into()).unwrap().into()
    }

    fn decrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let (nonce, tag) = (XNonce::from(*nonce), (*tag).into());
        self.cipher.decrypt_inout_detached(&nonce, associated, bytes.into(), &tag).is_ok()
    }
}

/// One key, whose bytes are its id.
pub(crate) fn keyring(id: u8) -> Keyring {
    Keyring::new(KeyId(id.into()), Chacha::of(id))
}
