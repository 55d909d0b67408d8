//! Encodes lock names as file names, and decodes them.

use std::fmt::Write as _;

use lock_core::LockName;
use sha2::{Digest, Sha256};

/// File names have at most 255 bytes on all supported file systems, and `.queue` and `.parts` have
/// six.
pub(crate) const MAX_BYTES: usize = 249;
/// In a plain encoding two hexadecimal digits follow every `%`, so no plain encoding contains this.
const DIGEST_MARK: &str = "%sha256-";
const DIGEST_DIGITS: usize = 64;

/// Returns the file name, without its suffix, of the lock `name`.
///
/// `a-z 0-9 _ - .` stay, except a leading dot. Every other byte becomes `%` and two lower-case
/// digits. Upper-case letters are escaped because some file systems fold case, and non-ASCII
/// characters because some normalise them. A result that would be too long is cut, and the SHA-256
/// of the name is added.
pub(crate) fn encode(name: &LockName) -> String {
    encode_in(name, MAX_BYTES)
}

/// Like [`encode`], in at most `limit` bytes.
pub(crate) fn encode_in(name: &LockName, limit: usize) -> String {
    let mut encoded = String::with_capacity(name.as_str().len());
    for (i, byte) in name.as_str().bytes().enumerate() {
        push(&mut encoded, byte, i == 0);
    }
    if encoded.len() <= limit { encoded } else { cut_with_digest(name, limit) }
}

/// Returns the name whose plain encoding is `stem`. `None` if `stem` is not a plain encoding; it
/// may have a [digest](has_digest).
pub(crate) fn decode(stem: &str) -> Option<LockName> {
    let mut bytes = Vec::with_capacity(stem.len());
    let mut rest = stem.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    let name = LockName::new(String::from_utf8(bytes).ok()?).ok()?;
    (encode(&name) == stem).then_some(name)
}

/// Returns whether `stem` stands for a long name, which only the record contains.
pub(crate) fn has_digest(stem: &str) -> bool {
    stem.contains(DIGEST_MARK)
}

/// Returns whether `stem` is the encoding of a name, plain or with a digest.
pub(crate) fn is_encoded(stem: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'%');
    match stem.split_once(DIGEST_MARK) {
        None => decode(stem).is_some(),
        Some((start, digest)) => {
            !start.starts_with('.')
                && stem.len() <= MAX_BYTES
                && start.bytes().all(is_plain)
                && digest.len() == DIGEST_DIGITS
                && digest.bytes().all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9'))
        }
    }
}

/// Returns whether `stem` may stand for a name that begins with `prefix`. The stem of a long name
/// has only the beginning of the name.
pub(crate) fn may_begin_with(stem: &str, prefix: &str) -> bool {
    let mut encoded = String::with_capacity(prefix.len());
    for (i, byte) in prefix.bytes().enumerate() {
        push(&mut encoded, byte, i == 0);
    }
    match stem.split_once(DIGEST_MARK) {
        Some((start, _)) => encoded.starts_with(start) || start.starts_with(&encoded),
        None => stem.starts_with(&encoded),
    }
}

fn push(encoded: &mut String, byte: u8, first: bool) {
    match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(byte.into()),
        b'.' if !first => encoded.push('.'),
        _ => write!(encoded, "%{byte:02x}").expect("writing to a String cannot fail"),
    }
}

fn cut_with_digest(name: &LockName, limit: usize) -> String {
    let room = limit - DIGEST_MARK.len() - DIGEST_DIGITS;
    let mut encoded = String::with_capacity(limit + 2);
    for (i, byte) in name.as_str().bytes().enumerate() {
        let before = encoded.len();
        push(&mut encoded, byte, i == 0);
        if encoded.len() > room {
            encoded.truncate(before);
            break;
        }
    }
    encoded.push_str(DIGEST_MARK);
    for byte in Sha256::digest(name.as_str().as_bytes()) {
        write!(encoded, "{byte:02x}").expect("writing to a String cannot fail");
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).expect("the test's names are valid")
    }

    #[test]
    fn plain_names_stay_readable_and_others_are_escaped() {
        for (plain, file) in [
            ("nightly-etl", "nightly-etl"),
            ("report.2024_01", "report.2024_01"),
            ("../x", "%2e.%2fx"),
            ("..", "%2e."),
            (".", "%2e"),
            (".hidden", "%2ehidden"),
            ("Etl", "%45tl"),
            ("a%b", "a%25b"),
            ("a\0/b c", "a%00%2fb%20c"),
            ("é", "%c3%a9"),
        ] {
            assert_eq!(encode(&name(plain)), file);
            assert_eq!(decode(file), Some(name(plain)), "{file}");
        }
    }

    #[test]
    fn foreign_file_names_are_not_decoded() {
        for foreign in ["", "Backup", ".hidden", "a b", "a%2Fb", "a%61", "a%2", "a%zz", "%ff", "a%+f", "x%sha256-00"] {
            assert_eq!(decode(foreign), None, "{foreign}");
            assert!(!is_encoded(foreign), "{foreign}");
        }
        let digest = "0123456789abcdef".repeat(4);
        assert!(is_encoded(&format!("x%sha256-{digest}")));
        for foreign in [format!("X%sha256-{digest}"), format!(".x%sha256-{digest}"), format!("x%sha256-{digest}0")] {
            assert!(!is_encoded(&foreign), "{foreign}");
        }
    }

    #[test]
    fn a_long_name_is_cut_between_escapes_after_a_prefix() {
        let stem = encode(&name(&format!("etl/{}", "é".repeat(500))));
        assert!(stem.starts_with("etl%2f%c3%a9") && has_digest(&stem) && stem.len() <= MAX_BYTES, "{stem}");
        assert!(decode(stem.split(DIGEST_MARK).next().unwrap_or_default()).is_none(), "cut inside a character");
        assert_eq!(decode(&stem), None);
        let longest_plain = "x".repeat(MAX_BYTES);
        assert_eq!(encode(&name(&longest_plain)), longest_plain);
        assert!(has_digest(&encode(&name(&"x".repeat(MAX_BYTES + 1)))));
    }

    #[test]
    fn a_stem_of_another_prefix_is_told_from_a_long_name() {
        let long = encode(&name(&"long/".repeat(200)));
        for (stem, prefix, expected) in [
            ("etl%2fa", "etl/", true),
            ("etl%2fa", "etl/b", false),
            (&long, "", true),
            (&long, &"long/".repeat(190), true),
            (&long, "long/short", false),
            (&long, "z", false),
        ] {
            assert_eq!(may_begin_with(stem, prefix), expected, "{stem} {prefix}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_found_by_each_of_its_beginnings(text in "(?s).{1,400}", cut in 0_usize..400) {
            prop_assume!(text.len() <= LockName::MAX_BYTES);
            let prefix: String = text.chars().take(cut).collect();
            prop_assert!(may_begin_with(&encode(&name(&text)), &prefix));
        }

        #[test]
        fn any_name_is_one_safe_file_name_that_decodes_back(text in "(?s).{1,400}") {
            prop_assume!(text.len() <= LockName::MAX_BYTES);
            let stem = encode(&name(&text));
            prop_assert!(!stem.is_empty() && stem.len() + ".queue".len() <= 255);
            prop_assert!(!stem.starts_with('.'));
            prop_assert!(stem.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'%')));
            prop_assert!(is_encoded(&stem));
            if !has_digest(&stem) {
                prop_assert_eq!(decode(&stem), Some(name(&text)));
            }
        }

        #[test]
        fn different_names_have_different_files_if_case_is_folded(
            texts in prop::collection::vec("[aA.%é/_x]{1,5}|[ab]{240,260}|(%[0-9a-fA-F]{2}){1,3}", 2..50)
        ) {
            let mut seen = HashMap::new();
            for text in texts {
                let folded = encode(&name(&text)).to_ascii_lowercase();
                let other = seen.insert(folded, text.clone());
                prop_assert!(other.is_none_or(|other| other == text));
            }
        }
    }
}
