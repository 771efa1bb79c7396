//! A cipher for logs that are encrypted: none that keeps secrets, but one whose tag notices every change.

use std::sync::Arc;

use strandline_wal::{Cipher, KeyId, Keyring, NONCE_LEN, TAG_LEN};

/// The only key.
const KEY: KeyId = KeyId(1);

#[derive(Debug)]
struct Mask;

impl Mask {
    /// Turns each bit that the nonce has set: done twice it changes nothing.
    fn apply(nonce: &[u8; NONCE_LEN], bytes: &mut [u8]) {
        bytes.iter_mut().zip(nonce.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask ^ 0x5a);
    }

    fn tag(nonce: &[u8; NONCE_LEN], associated: &[u8], bytes: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = crc32fast::Hasher::new();
        [nonce, associated, bytes].iter().for_each(|part| hasher.update(part));
        let mut tag = [0; TAG_LEN];
        tag[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        tag
    }
}

impl Cipher for Mask {
    fn encrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> [u8; TAG_LEN] {
        Self::apply(nonce, bytes);
        Self::tag(nonce, associated, bytes)
    }

    fn decrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let is_right = *tag == Self::tag(nonce, associated, bytes);
        Self::apply(nonce, bytes);
        is_right
    }
}

/// New groups are encrypted.
pub(crate) fn encrypting() -> Keyring {
    Keyring::new(KEY, Arc::new(Mask))
}

/// New groups are not, and those that are can be read.
pub(crate) fn reading() -> Keyring {
    let keyring = Keyring::for_reading();
    keyring.add(KEY, Arc::new(Mask)).expect("it is the first");
    keyring
}
