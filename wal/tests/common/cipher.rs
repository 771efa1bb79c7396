//! A real cipher for tests, which notices a nonce that it is given for the second time.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use strandline_wal::{Cipher, KeyId, Keyring, NONCE_LEN, TAG_LEN};

/// XChaCha20-Poly1305 with the key that consists of this byte.
pub(crate) struct Chacha {
    cipher: XChaCha20Poly1305,
    nonces: Mutex<Nonces>,
}

/// The nonces that were encrypted with.
#[derive(Default)]
struct Nonces {
    seen: HashSet<[u8; NONCE_LEN]>,
    /// One that came twice.
    again: Option<[u8; NONCE_LEN]>,
}

impl Chacha {
    pub(crate) fn of(byte: u8) -> Arc<Self> {
        let cipher = XChaCha20Poly1305::new(&[byte; 32].into());
        Arc::new(Self { cipher, nonces: Mutex::default() })
    }

    /// How many nonces there were, or one that came twice.
    pub(crate) fn nonces(&self) -> Result<usize, String> {
        let nonces = self.nonces.lock().unwrap();
        match nonces.again {
            None => Ok(nonces.seen.len()),
            Some(again) => Err(format!("the nonce {again:?} comes twice")),
        }
    }
}

impl Cipher for Chacha {
    fn encrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let mut nonces = self.nonces.lock().unwrap();
        if !nonces.seen.insert(*nonce) {
            nonces.again = Some(*nonce);
        }
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
