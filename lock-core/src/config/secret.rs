//! Secrets, which are never printed, and the rules that recognise secret options.

use std::fmt;

/// A secret, such as a password. `Debug` and `Display` print `***`.
///
/// ```
/// use lock_core::config::Secret;
///
/// let password = Secret::new("hunter2");
/// assert_eq!(format!("{password} {password:?}"), "*** ***");
/// assert_eq!(password.expose(), "hunter2");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Creates a secret from `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, to be sent to the store only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The text that replaces a secret.
pub(super) const MASK: &str = "***";

const SECRET_WORDS: &[&str] =
    &["auth", "credential", "credentials", "pass", "passphrase", "passwd", "password", "pw", "pwd", "secret", "token"];

/// Returns `true` if the option must not be printed: by its name, or because its value contains a
/// password, as in the address `http://user:pass@proxy`.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || value.split_once('@').is_some_and(|(login, _)| login.contains(':'))
}

/// Returns `true` if the name is that of a secret option: one of its words is a word for secrets,
/// or close to one. Misspelt words count, because an error shows a misspelt option.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let joined = name.replace(['_', '-', '.'], "");
    let names_key = ["apikey", "accesskey", "secretkey", "privatekey"].iter().any(|key| joined.contains(key));
    names_key
        || ["auth", "credential", "passw", "secret", "token"].iter().any(|word| joined.contains(word))
        || name.split(['_', '-', '.']).any(|word| SECRET_WORDS.iter().any(|secret| is_nearly(word, secret)))
}

fn is_nearly(word: &str, secret: &str) -> bool {
    let tolerated = match secret.len() {
        0..=4 => 0,
        5..=6 => 1,
        _ => 2,
    };
    strsim::osa_distance(word, secret) <= tolerated
}

/// Hides all possible secrets in `text`, which could not be parsed as a config string.
///
/// The meaning of the text is unknown, so this hides too much rather than too little: everything
/// between the scheme and the last `@`, because a password may contain characters that should have
/// been encoded, and everything after a secret option.
pub(super) fn redact_unparsed(text: &str) -> String {
    let cut = secret_option_end(text);
    let begin = text.find(':').map_or(0, |colon| if text[colon..].starts_with("://") { colon + 3 } else { colon + 1 });
    let shown = match (text.rfind('@'), cut) {
        (Some(at), _) if at < begin => format!("{MASK}{}", &text[at..]),
        (Some(at), Some(cut)) if at < cut => format!("{}{MASK}{}{MASK}", &text[..begin], &text[at..cut]),
        (Some(_), Some(_)) => format!("{}{MASK}", &text[..begin]),
        (Some(at), None) => format!("{}{MASK}{}", &text[..begin], &text[at..]),
        (None, cut) => match odd_port(text, begin).into_iter().chain(cut).min() {
            Some(cut) => format!("{}{MASK}", &text[..cut]),
            None => text.to_owned(),
        },
    };
    shown.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

/// Returns the start of an invalid port: `redis://:secret` and `redis://user:secret` lack the host,
/// so the secret is in the place of the port.
fn odd_port(text: &str, begin: usize) -> Option<usize> {
    let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |length| begin + length);
    let colon = begin + text[begin..end].rfind("]:").map_or_else(|| text[begin..end].find(':'), |i| Some(i + 1))?;
    let ports = text[colon..end].split(',').filter_map(|host| host.split_once(':'));
    let odd = ports.clone().any(|(_, port)| port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()));
    (text[..begin].ends_with("://") && odd).then_some(colon + 1)
}

/// Returns the start of the value of the first secret option.
fn secret_option_end(text: &str) -> Option<usize> {
    let mut begin = text.find('?')? + 1;
    for piece in text[begin..].split('&') {
        if let Some((name, _)) = piece.split_once('=') {
            let decoded = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
            if is_secret_name(&decoded) {
                return Some(begin + name.len() + 1);
            }
        }
        begin += piece.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_recognised_even_if_misspelt() {
        for name in
            ["password", "PASSWORD", "redis_password", "pasword", "passwrod", "passwort", "tokn", "secrt", "auth", "pw"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["session_token", "sasl-password", "aws_secret_access_key", "apikey", "accessKey"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["ttl", "owner", "prefix", "require", "region", "endpoint", "table", "margin", "schema", "compat"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn password_in_an_address_is_a_secret() {
        assert!(is_secret("endpoint", "http://u:p@proxy") && is_secret("proxy", "u:p@h"));
        assert!(!is_secret("endpoint", "http://localhost:8000") && !is_secret("owner", "me@host"));
    }

    #[test]
    fn unparsable_text_shows_no_secret() {
        for (text, shown) in [
            ("redis://u:p/w@h:1", "redis://***@h:1"),
            ("redis://u:p?w@h#x", "redis://***@h#x"),
            ("redis:u:p@h", "redis:***@h"),
            ("u@h:p", "***@h:p"),
            ("redis://h?password=a&b", "redis://h?password=***"),
            ("redis://u:p@h?password=a&b", "redis://***@h?password=***"),
            ("redis://h?password=a@b", "redis://***"),
            ("redis://h?a=1&p%61ssword=a&b", "redis://h?a=1&p%61ssword=***"),
            ("redis://:hunter2", "redis://:***"),
            ("redis://u:hun/ter2", "redis://u:***"),
            ("redis://h:1,h:x", "redis://h:***"),
            ("redis://[::1]:x", "redis://[::1]:***"),
            ("redis://[::1]:80?x", "redis://[::1]:80?x"),
            ("file://h:1/x y", "file://h:1/x y"),
            ("redis://h?a\u{1b}=1", "redis://h?a\\u{1b}=1"),
        ] {
            assert_eq!(redact_unparsed(text), shown, "{text}");
        }
    }
}
