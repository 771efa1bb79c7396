//! Who may do what: one password, or none.

use std::hint::black_box;
use std::net::IpAddr;

/// The password that clients must give.
#[derive(Clone, Default)]
pub struct Password {
    /// Empty: none is needed.
    text: Vec<u8>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Password(..)")
    }
}

impl Password {
    /// This one; empty: none is needed.
    pub fn new(text: &str) -> Self {
        Self { text: text.as_bytes().to_vec() }
    }

    /// Whether clients must give it.
    pub fn is_needed(&self) -> bool {
        !self.text.is_empty()
    }

    /// Whether `given` is the password. How long that takes depends on the length of what is given
    /// alone, so that the time tells nothing about the password.
    pub fn is(&self, given: &[u8]) -> bool {
        let mut difference = self.text.len() ^ given.len();
        for (at, byte) in given.iter().enumerate() {
            // Beyond the end of the password there is something to compare with all the same.
            let own = self.text.get(at % self.text.len().max(1)).copied().unwrap_or(0);
            difference |= usize::from(black_box(own ^ byte));
        }
        black_box(difference) == 0
    }
}

/// Whether listening there lets in others than this machine.
pub fn is_public(address: IpAddr) -> bool {
    !address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_is_the_password() {
        let password = Password::new("tide");
        assert!(password.is(b"tide"));
        for wrong in [&b""[..], b"tid", b"tides", b"Tide", b"tidetide", b"eeee"] {
            assert!(!password.is(wrong), "{}", wrong.escape_ascii());
        }
        assert!(!Password::new("").is_needed());
        assert!(!Password::new("").is(b"x"));
    }

    #[test]
    fn loopback_is_not_public() {
        for (address, expected) in
            [("127.0.0.1", false), ("::1", false), ("::ffff:127.0.0.1", false), ("0.0.0.0", true)]
        {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }
}
