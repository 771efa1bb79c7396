//! Certificates for trying TLS out: an authority of the cluster's own, and one certificate for each node.
//!
//! They are as good as any others, but the authority's key lies beside them as a file: who takes it can be
//! every node. In earnest it is kept elsewhere. If there is an authority already it is used, so that a
//! node that comes later gets its certificate from the same one.
//!
//! An X.509 certificate is a few nested lists; it is written here byte by byte (RFC 5280, in DER).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use graviola::hashing::Sha256;
use graviola::signing::ecdsa::{P256, SigningKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::{Error, name_text};

/// How long the authority is good for: ten years.
const AUTHORITY_DAYS: u64 = 3650;
/// How long a node's certificate is good for: two years.
const NODE_DAYS: u64 = 730;
/// A node whose clock is a little behind must not refuse what was just made.
const BACKDATED_DAYS: u64 = 1;
/// Longer than any key and signature of P-256.
const KEY_LEN_MAX: usize = 512;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// A tag that only has a meaning where it stands.
const fn context(number: u8, is_list: bool) -> u8 {
    0x80 | number | if is_list { 0x20 } else { 0 }
}

/// `TRUE`.
const TRUE: &[u8] = &[0x01, 1, 0xff];
/// Object identifiers, with tag and length.
const ECDSA_WITH_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const COMMON_NAME: &[u8] = &[6, 3, 0x55, 4, 3];
const BASIC_CONSTRAINTS: &[u8] = &[6, 3, 0x55, 0x1d, 19];
const KEY_USAGE: &[u8] = &[6, 3, 0x55, 0x1d, 15];
const ALTERNATIVE_NAME: &[u8] = &[6, 3, 0x55, 0x1d, 17];
const EXTENDED_KEY_USAGE: &[u8] = &[6, 3, 0x55, 0x1d, 37];
const SERVER_AUTHENTICATION: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTHENTICATION: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];

/// A key that signs, and the name that stands on what it has signed.
struct Authority {
    key: SigningKey<P256>,
}

const AUTHORITY_NAME: &str = "strandline authority";

/// Makes certificates for these nodes in `dir`, and the authority if there is none; returns the files
/// written. Those of a node that are there already are replaced.
///
/// # Errors
///
/// If a file cannot be read or written, or the processor is too old.
pub fn make(dir: &Path, nodes: &[u64], now_s: u64) -> Result<Vec<PathBuf>, Error> {
    if !graviola::util::is_cpu_supported() {
        return Err(Error::Processor);
    }
    let mut written = Vec::new();
    let (certificate_path, key_path) = (dir.join("authority.pem"), dir.join("authority.key"));
    let authority = match key_path.exists() {
        true => load_authority(&key_path)?,
        false => {
            let authority = Authority { key: new_key(&key_path)? };
            let key = &authority.key;
            let certificate =
                authority.certify(AUTHORITY_NAME, key, now_s, AUTHORITY_DAYS, true)?;
            write(&key_path, "PRIVATE KEY", &private(key)?, 0o600)?;
            write(&certificate_path, "CERTIFICATE", &certificate, 0o644)?;
            written.extend([certificate_path, key_path]);
            authority
        }
    };
    for node in nodes {
        let path = |kind| dir.join(format!("node-{node}.{kind}"));
        let (certificate_path, key_path) = (path("pem"), path("key"));
        let key = new_key(&key_path)?;
        let certificate = authority.certify(&name_text(*node), &key, now_s, NODE_DAYS, false)?;
        write(&key_path, "PRIVATE KEY", &private(&key)?, 0o600)?;
        write(&certificate_path, "CERTIFICATE", &certificate, 0o644)?;
        written.extend([certificate_path, key_path]);
    }
    Ok(written)
}

fn new_key(path: &Path) -> Result<SigningKey<P256>, Error> {
    SigningKey::generate().map_err(|error| refused(path, &format!("{error:?}")))
}

fn private(key: &SigningKey<P256>) -> Result<Vec<u8>, Error> {
    let mut bytes = [0; KEY_LEN_MAX];
    let key = key.to_pkcs8_der(&mut bytes);
    Ok(key.map_err(|error| refused(Path::new("key"), &format!("{error:?}")))?.to_vec())
}

fn load_authority(path: &Path) -> Result<Authority, Error> {
    let der = PrivatePkcs8KeyDer::from_pem_file(path)
        .map_err(|error| refused(path, &error.to_string()))?;
    let key = SigningKey::from_pkcs8_der(der.secret_pkcs8_der())
        .map_err(|error| refused(path, &format!("{error:?}")))?;
    Ok(Authority { key })
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::File { what: "key", path: path.to_owned(), reason: reason.to_owned() }
}

impl Authority {
    /// A certificate that says whose key this is.
    fn certify(
        &self,
        name: &str,
        key: &SigningKey<P256>,
        now_s: u64,
        days: u64,
        is_authority: bool,
    ) -> Result<Vec<u8>, Error> {
        let failed = |error: graviola::Error| refused(Path::new(name), &format!("{error:?}"));
        let mut serial = [0; 16];
        graviola::random::fill(&mut serial).map_err(failed)?;
        // Positive, and never without its first byte.
        serial[0] = serial[0] & 0x3f | 0x40;
        let mut public = [0; KEY_LEN_MAX];
        let public = key.to_spki_der(&mut public).map_err(failed)?;
        let from = now_s.saturating_sub(BACKDATED_DAYS * DAY_S);
        let validity = [time(from), time(now_s + days * DAY_S)].concat();
        let algorithm = tagged(SEQUENCE, ECDSA_WITH_SHA256);
        let body = [
            tagged(context(0, true), &tagged(INTEGER, &[2])),
            tagged(INTEGER, &serial),
            algorithm.clone(),
            distinguished(AUTHORITY_NAME),
            tagged(SEQUENCE, &validity),
            distinguished(name),
            public.to_vec(),
            tagged(context(3, true), &tagged(SEQUENCE, &extensions(name, is_authority))),
        ];
        let body = tagged(SEQUENCE, &body.concat());
        let mut signature = [0; KEY_LEN_MAX];
        let signature = self.key.sign_asn1::<Sha256>(&[&body], &mut signature).map_err(failed)?;
        let signature = tagged(BIT_STRING, &[&[0], signature].concat());
        Ok(tagged(SEQUENCE, &[body, algorithm, signature].concat()))
    }
}

/// What the certificate is good for.
fn extensions(name: &str, is_authority: bool) -> Vec<u8> {
    let extension = |id: &[u8], critical: &[u8], value: &[u8]| {
        tagged(SEQUENCE, &[id, critical, &tagged(OCTET_STRING, value)].concat())
    };
    if is_authority {
        // The one use is bit 5: to sign certificates.
        let usage = tagged(BIT_STRING, &[2, 0x04]);
        return [
            extension(BASIC_CONSTRAINTS, TRUE, &tagged(SEQUENCE, TRUE)),
            extension(KEY_USAGE, TRUE, &usage),
        ]
        .concat();
    }
    let names = tagged(SEQUENCE, &tagged(context(2, false), name.as_bytes()));
    let uses = tagged(SEQUENCE, &[SERVER_AUTHENTICATION, CLIENT_AUTHENTICATION].concat());
    [extension(ALTERNATIVE_NAME, &[], &names), extension(EXTENDED_KEY_USAGE, &[], &uses)].concat()
}

/// A name with one part.
fn distinguished(name: &str) -> Vec<u8> {
    let part = [COMMON_NAME.to_vec(), tagged(UTF8_STRING, name.as_bytes())].concat();
    tagged(SEQUENCE, &tagged(SET, &tagged(SEQUENCE, &part)))
}

/// Content behind its tag and length.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let byte = |len: usize| u8::try_from(len & 0xff).expect("it is masked");
    let mut bytes = match len {
        0..0x80 => vec![tag, byte(len)],
        0x80..0x100 => vec![tag, 0x81, byte(len)],
        _ => {
            assert!(len < 0x1_0000, "a certificate is short");
            vec![tag, 0x82, byte(len >> 8), byte(len)]
        }
    };
    bytes.extend_from_slice(content);
    bytes
}

const DAY_S: u64 = 86_400;

/// A moment, in seconds since 1970: with two digits of the year as long as the rules want that.
fn time(seconds: u64) -> Vec<u8> {
    let (year, month, day) = date(seconds / DAY_S);
    let rest = seconds % DAY_S;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let tail = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match year {
        ..2050 => tagged(UTC_TIME, format!("{:02}{tail}", year % 100).as_bytes()),
        _ => tagged(GENERALIZED_TIME, format!("{year:04}{tail}").as_bytes()),
    }
}

/// Year, month and day of a count of days since 1970, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    loop {
        let len = 365 + u64::from(is_leap(year));
        if left < len {
            break;
        }
        left -= len;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for len in months {
        if left < len {
            break;
        }
        left -= len;
        month += 1;
    }
    (year, month, left + 1)
}

/// Writes a file of PEM, readable by whom `mode` says.
fn write(path: &Path, what: &str, der: &[u8], mode: u32) -> Result<(), Error> {
    let text = pem(what, der);
    let failed = |source: io::Error| Error::Write { path: path.to_owned(), source };
    // A file that is there keeps its mode: it goes first.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

fn pem(what: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = String::new();
    for group in der.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).expect("it is masked");
            digits.push(if place <= group.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    let mut text = format!("-----BEGIN {what}-----\n");
    for line in digits.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {what}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tls::Tls;

    #[test]
    fn days_become_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_783, (2026, 11, 26)),
            (29_219, (2049, 12, 31)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
        assert_eq!(&time(0)[2..], b"700101000000Z");
        assert_eq!(&time(29_220 * DAY_S + 86_399)[2..], b"20500101235959Z");
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, expected) in
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert!(pem("X", bytes.as_bytes()).contains(&format!("\n{expected}\n")), "{bytes}");
        }
    }

    #[test]
    fn certificates_fit_their_keys_and_later_ones_the_same_authority() {
        let name = format!("strandline-certificates-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let now_s = crate::clock::now_ms() / 1000;
        let written = make(&dir, &[1, 2], now_s).unwrap();
        assert_eq!(written.len(), 6);
        let authority = fs::read(dir.join("authority.pem")).unwrap();
        assert_eq!(make(&dir, &[3], now_s).unwrap().len(), 2);
        assert_eq!(fs::read(dir.join("authority.pem")).unwrap(), authority);
        let load = |certificate: &str, key: &str| {
            Tls::load(&dir.join(certificate), &dir.join(key), &dir.join("authority.pem"))
        };
        let loaded = [1, 2, 3].map(|id| load(&format!("node-{id}.pem"), &format!("node-{id}.key")));
        let mixed = load("node-1.pem", "node-2.key");
        fs::remove_dir_all(&dir).unwrap();
        for tls in loaded {
            tls.unwrap();
        }
        assert!(mixed.is_err());
    }
}
