//! Writes a config string as text, with or without its secrets.

use std::{collections::BTreeMap, fmt, time::Duration};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{
    ConfigString, Host, duration,
    host::STRICT,
    secret::{MASK, is_secret},
};

const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#').add(b'@');
const VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'#').add(b'@');

/// For stores that print their settings.
impl ConfigString {
    /// Creates the config string of a store. Nothing is checked: `path` is literal, and begins with
    /// a slash if there are hosts.
    pub fn of(scheme: impl Into<String>, hosts: impl IntoIterator<Item = Host>, path: impl Into<String>) -> Self {
        Self {
            scheme: scheme.into(),
            user: None,
            password: None,
            hosts: hosts.into_iter().collect(),
            path: path.into(),
            options: BTreeMap::new(),
        }
    }

    /// Adds a setting if it has a value. `value` is literal, not percent-encoded.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: Option<impl Into<String>>) -> Self {
        self.options.extend(value.map(|value| (name.to_owned(), value.into())));
        self
    }

    /// Adds a duration unless it is the default.
    #[must_use]
    pub fn with_duration(self, name: &str, value: Duration, default: Duration) -> Self {
        self.with_setting(name, (value != default).then(|| duration::format(value)))
    }

    /// Returns the whole text with its secrets, which parses to the same value.
    pub fn expose(&self) -> String {
        Text { config: self, masked: false }.to_string()
    }
}

impl fmt::Display for ConfigString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text { config: self, masked: true }.fmt(f)
    }
}

impl fmt::Debug for ConfigString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigString({self})")
    }
}

/// Writes the text of `config`, without secrets if `masked`.
struct Text<'a> {
    config: &'a ConfigString,
    masked: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.config, self.masked, f)
    }
}

fn write(config: &ConfigString, masked: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}:", config.scheme)?;
    if !config.hosts.is_empty() || config.path.starts_with('/') {
        f.write_str("//")?;
    }
    write_login(config, masked, f)?;
    for (i, host) in config.hosts.iter().enumerate() {
        write!(f, "{}{host}", if i == 0 { "" } else { "," })?;
    }
    write!(f, "{}", utf8_percent_encode(&config.path, PATH))?;
    for (i, (name, value)) in config.options.iter().enumerate() {
        write!(f, "{}{name}=", if i == 0 { '?' } else { '&' })?;
        if masked && is_secret(name, value) {
            f.write_str(MASK)?;
        } else {
            write!(f, "{}", utf8_percent_encode(value, VALUE))?;
        }
    }
    Ok(())
}

fn write_login(config: &ConfigString, masked: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (&config.user, &config.password) {
        (None, None) => return Ok(()),
        // A user without a password is often a password in the wrong place.
        (Some(_), None) if masked => f.write_str(MASK)?,
        (user, password) => {
            write!(f, "{}", utf8_percent_encode(user.as_deref().unwrap_or_default(), STRICT))?;
            match password {
                Some(_) if masked => write!(f, ":{MASK}")?,
                Some(password) => write!(f, ":{}", utf8_percent_encode(password.expose(), STRICT))?,
                None => {}
            }
        }
    }
    f.write_str("@")
}
