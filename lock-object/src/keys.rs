//! The keys of locks: a readable encoding of the name, or its digest.

use std::fmt::Write as _;

use lock_core::{Error, ErrorKind, LockName};
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

/// Letters, digits and these characters stay. Every other byte becomes `%` and two digits.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// A key has at most 1,024 bytes on S3, GCS and Azure. The rest is for the prefix.
const LONGEST: usize = 900;
const LONGEST_KEY: usize = 1024;
pub(crate) const LONGEST_PREFIX: usize = 100;
const SUFFIX: &str = ".lock";
/// Two hexadecimal digits follow every `%` of an encoded name, so none contains this.
const DIGEST: &str = "%sha256-";

/// The places of the locks in a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: Path,
}

/// What a key says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Lock(LockName),
    /// A lock with a long name, which only the object contains.
    Digest,
    /// It ends like a lock, but is none.
    Odd,
    Other,
}

impl Keys {
    /// Checks a prefix, which is written with slashes between its parts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(prefix: &str) -> Result<Self, String> {
        if prefix.len() > LONGEST_PREFIX {
            return Err(format!("the prefix has {} bytes, but at most {LONGEST_PREFIX} are possible", prefix.len()));
        }
        Path::parse(prefix).map(|prefix| Self { prefix }).map_err(|error| format!("the prefix is not valid: {error}"))
    }

    pub(crate) fn prefix(&self) -> Option<&Path> {
        (!self.prefix.is_root()).then_some(&self.prefix)
    }

    pub(crate) fn lock(&self, name: &LockName) -> Path {
        self.at(&format!("{}{SUFFIX}", encode(name)))
    }

    /// The object on which the start-up probe tries conditions. No lock has this key, because it
    /// has no suffix.
    pub(crate) fn probe(&self) -> Path {
        self.at(".onelock-probe")
    }

    /// A key under which no object ever is.
    pub(crate) fn never(&self) -> Path {
        self.at(".onelock-never")
    }

    pub(crate) fn place(&self, path: &Path) -> Place {
        let prefix = self.prefix.as_ref();
        let below = path.as_ref().strip_prefix(prefix).unwrap_or_default();
        let below = if prefix.is_empty() { below } else { below.strip_prefix('/').unwrap_or_default() };
        match below.strip_suffix(SUFFIX) {
            None => Place::Other,
            Some(stem) if is_digest(stem) => Place::Digest,
            Some(stem) => decode(stem).map_or(Place::Odd, Place::Lock),
        }
    }

    /// The key `PREFIX/NAME` with a suffix, where the name is the key of another object.
    ///
    /// # Errors
    /// If no object can have that key.
    pub(crate) fn beside(&self, name: &LockName, suffix: &str) -> Result<Path, Error> {
        let prefix = self.prefix.as_ref();
        let file = format!("{name}{suffix}", name = name.as_str());
        let whole = if prefix.is_empty() { file } else { format!("{prefix}/{file}") };
        let path = Path::parse(&whole).ok().filter(|path| path.as_ref() == whole && whole.len() <= LONGEST_KEY);
        path.ok_or_else(|| {
            let text = "with schema=tflock the name of a lock is the key of a state, and no state has this key; use \
                another name";
            Error::new(ErrorKind::Config, text).with_name(name)
        })
    }

    /// The name of the object beside which `path` is.
    pub(crate) fn name_beside(&self, path: &Path, suffix: &str) -> Option<LockName> {
        let below = path.as_ref().strip_prefix(self.prefix.as_ref())?.strip_suffix(suffix)?;
        LockName::new(below.strip_prefix('/').unwrap_or(below)).ok()
    }

    fn at(&self, file: &str) -> Path {
        let prefix = self.prefix.as_ref();
        let whole = if prefix.is_empty() { file.to_owned() } else { format!("{prefix}/{file}") };
        Path::parse(whole).expect("an encoded name is a valid part of a path")
    }
}

fn encode(name: &LockName) -> String {
    let encoded = utf8_percent_encode(name.as_str(), ESCAPED).to_string();
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let mut digest = DIGEST.to_owned();
    for byte in Sha256::digest(name.as_str().as_bytes()) {
        write!(digest, "{byte:02x}").expect("writing to a String cannot fail");
    }
    digest
}

fn is_digest(stem: &str) -> bool {
    stem.strip_prefix(DIGEST).is_some_and(|hex| hex.len() == 64)
}

fn decode(stem: &str) -> Option<LockName> {
    let name = LockName::new(percent_decode_str(stem).decode_utf8().ok()?).ok()?;
    (encode(&name) == stem).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).expect("the test's names are valid")
    }

    #[test]
    fn names_are_escaped_and_decoded_back() {
        let keys = Keys::new("/app/locks/").unwrap();
        for (text, key) in [
            ("nightly-etl", "app/locks/nightly-etl.lock"),
            ("a/b", "app/locks/a%2Fb.lock"),
            ("..", "app/locks/...lock"),
            ("a\0%é", "app/locks/a%00%25%C3%A9.lock"),
            (".onelock-probe", "app/locks/.onelock-probe.lock"),
        ] {
            assert_eq!(keys.lock(&name(text)).as_ref(), key);
            assert_eq!(keys.place(&keys.lock(&name(text))), Place::Lock(name(text)));
        }
        assert_eq!(Keys::new("").unwrap().lock(&name("a")).as_ref(), "a.lock");
    }

    #[test]
    fn longest_keys_fit_into_1024_bytes() {
        let keys = Keys::new(&"p".repeat(LONGEST_PREFIX)).unwrap();
        for text in ["é".repeat(512), "x".repeat(LONGEST), "x".repeat(LONGEST + 1), "%".repeat(300)] {
            let key = keys.lock(&name(&text));
            assert!(key.as_ref().len() <= 1024, "{}", key.as_ref().len());
            let expected =
                if text.len() == LONGEST || text.len() == 300 { Place::Lock(name(&text)) } else { Place::Digest };
            assert_eq!(keys.place(&key), expected);
        }
        assert_ne!(keys.lock(&name(&"é".repeat(512))), keys.lock(&name(&"è".repeat(512))));
    }

    #[test]
    fn foreign_keys_are_no_locks() {
        let keys = Keys::new("locks").unwrap();
        for (key, expected) in [
            ("locks/a%2fb.lock", Place::Odd),
            ("locks/a b.lock", Place::Odd),
            ("locks/.lock", Place::Odd),
            ("locks/sub/a.lock", Place::Odd),
            ("locks/readme.txt", Place::Other),
            ("locksmith/a.lock", Place::Other),
            ("locks/.onelock-probe", Place::Other),
        ] {
            assert_eq!(keys.place(&Path::parse(key).unwrap()), expected, "{key}");
        }
        assert!(Keys::new("a//b").is_err() && Keys::new(&"p".repeat(101)).is_err());
    }
}
