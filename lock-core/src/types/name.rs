//! The name of a lock.

use std::{fmt, str::FromStr, sync::Arc};

/// The name of a lock: 1 to 1,024 bytes of UTF-8, with any characters.
///
/// Slashes, dots, NUL, braces and other scripts are legal. Each backend encodes the characters that
/// its store does not accept. Names are compared byte by byte, without case folding or Unicode
/// normalisation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

/// The reason why a text is not a valid [`LockName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is empty.
    #[error("a lock name must not be empty; name what the lock protects, such as \"nightly-etl\"")]
    Empty,
    /// The text is longer than [`LockName::MAX_BYTES`].
    #[error("a lock name has at most {max} bytes, but this one has {bytes}; use a shorter name or a digest of \
        it", max = LockName::MAX_BYTES)]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
}

impl LockName {
    /// The length of the longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 1024;

    /// Checks `name` and makes a lock name of it.
    ///
    /// # Errors
    /// [`InvalidName`] if `name` is empty or longer than [`Self::MAX_BYTES`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
        let name = name.as_ref();
        match name.len() {
            0 => Err(InvalidName::Empty),
            n if n > Self::MAX_BYTES => Err(InvalidName::TooLong { bytes: n }),
            _ => Ok(Self(name.into())),
        }
    }

    /// Returns the name with `prefix` in front of it.
    pub(crate) fn with_prefix(self, prefix: &str) -> Result<Self, InvalidName> {
        if prefix.is_empty() { Ok(self) } else { Self::new(format!("{prefix}{self_}", self_ = self.0)) }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters in a name must not reach a terminal or break a log line.
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&Self> for LockName {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

/// All conversions from text check the name in one place.
macro_rules! from_text {
    ($($text:ty)*) => {
        $(impl TryFrom<$text> for LockName {
            type Error = InvalidName;

            fn try_from(name: $text) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        })*
    };
}

from_text!(&str String &String);

impl FromStr for LockName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_1024_bytes_of_any_characters() {
        for good in ["a", "../x", "a/b", "\0", "{tag}", "Ünïcødé", &"x".repeat(1024)] {
            assert_eq!(LockName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(LockName::new(""), Err(InvalidName::Empty));
        assert_eq!(LockName::new("é".repeat(513)), Err(InvalidName::TooLong { bytes: 1026 }));
    }

    #[test]
    fn display_never_prints_a_control_character() {
        let shown = LockName::new("a\u{1b}[2J\n\0b").unwrap().to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}
