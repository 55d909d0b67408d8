//! Writes a config string as text, with or without its secrets.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    ConfigString,
    secret::{MASK, is_secret},
};

/// For users, passwords and hosts: all characters except the unreserved ones of RFC 3986.
pub(super) const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#').add(b'@');
const VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'#').add(b'@');

/// Writes the text of `config`, without secrets if `masked`.
pub(super) struct Text<'a> {
    pub(super) config: &'a ConfigString,
    pub(super) masked: bool,
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
