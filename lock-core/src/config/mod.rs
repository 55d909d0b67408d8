//! Config strings: the store and its options in one line.
//!
//! ```text
//! scheme://[user[:password]@]host[:port][,host2[:port]…]/path?option=value&option=value
//! ```
//!
//! | example | |
//! |---|---|
//! | `memory:` | locks of this process |
//! | `file:///var/lib/app/locks` | an absolute directory: an empty host, hence three slashes |
//! | `file:locks` | a directory relative to the working directory |
//! | `redis://app:s3cret@[::1]:6379/0?ttl=20s` | a server with user, password and database |
//! | `redis+sentinel://h1:26379,h2/mymaster` | several hosts |
//! | `dynamodb://locks?region=eu-west-1` | a table |
//! | `migrate:?from=file:///mnt/efs/locks&to=dynamodb://locks` | two stores as one (crate `lock-migrate`) |
//!
//! Percent-encode these characters:
//!
//! - everywhere: spaces (`%20`), `%` (`%25`), `#` (`%23`) and `@` (`%40`)
//! - in users and passwords: everything except letters, digits and `-._~`
//! - in paths: `?` (`%3F`)
//! - in values: `&` (`%26`)
//!
//! `+` is a literal plus sign. Decoded text must be UTF-8 without control characters. `scheme://`
//! and `scheme:` mean the same. An option must have a value, and must not repeat.
//!
//! # Options of every store
//!
//! | option | value | default | see |
//! |---|---|---|---|
//! | `ttl` | duration | 30s | [`ttl`](crate::LockRequest::ttl); an error on files |
//! | `margin` | duration | a tenth of the ttl, or the least one | [`margin`]; an error on local files |
//! | `renew` | `auto`, `manual` or a duration | `auto` | [`Renew`](crate::Renew) |
//! | `grace` | duration | 0s | [`grace`](crate::LockRequest::grace) |
//! | `owner` | text | `host:pid-random` | [`owner`](crate::LockRequest::owner) |
//! | `prefix` | text | none | [`prefix`](crate::LockerBuilder::prefix) |
//! | `min_hold` | duration | 0s | [`min_hold`](crate::LockRequest::min_hold) |
//! | `max_hold` | duration | no limit | [`max_hold`](crate::LockRequest::max_hold) |
//! | `fair` | `true`, `false` | `false` | [`fair`](crate::LockRequest::fair); needs the capability `fair` |
//! | `spread` | duration | `0s` | [`spread`](crate::LockRequest::spread) |
//! | `hand_over` | 0 to 1000 | 0 | [`hand_over`](crate::LockRequest::hand_over); needs the capability `hand-over` |
//! | `require` | [capabilities](crate::Capability), with commas | none | [`require`](crate::LockerBuilder::require) |
//!
//! [`margin`]: crate::LockRequest::margin
//!
//! A duration consists of numbers with units, `ms`, `s`, `m`, `h` or `d`: `250ms`, `30s`, `1h30m`.
//! Other options belong to the store; its page lists them. An option that the store does not know,
//! or cannot honour, is an error.
//!
//! # Secrets
//!
//! These are secrets: passwords, options that are secret by name (`password`, `token`, `secret`,
//! …), and values that are an address with a password. `Debug`, `Display` and errors never print
//! them, not even the error about a text that cannot be parsed. Only [`ConfigString::expose`]
//! returns them.
//!
//! In a config string, a secret is visible to `ps` and in copies. So it can come from elsewhere:
//! `password_file=/run/secrets/redis` reads the password from that file, and
//! `password_env=REDIS_PASSWORD` from that environment variable. The suffixes `_file` and `_env`
//! work for every secret option ([`ConfigString::fetch_secrets`]).
//!
//! # Fuzzing
//!
//! [`ConfigString::parse`] is a pure function of any text. `expose` writes its result as a text
//! that parses to the same value.

mod common;
mod duration;
mod elsewhere;
mod host;
mod parse;
mod registry;
mod secret;
#[cfg(feature = "serde")]
mod settings;
#[cfg(all(test, feature = "serde"))]
mod settings_tests;
mod store;
pub(crate) mod suggest;
#[cfg(test)]
mod tests;
mod write;

use std::{collections::BTreeMap, str::FromStr};

pub(crate) use common::Common;
pub use duration::{LONGEST_DURATION, parse_duration};
pub use host::Host;
pub use registry::{BackendFactory, Registry};
pub use secret::Secret;
use secret::is_secret;
#[cfg(feature = "serde")]
pub use settings::Settings;
pub use store::StoreConfig;

use crate::types::{Error, ErrorKind, Operation};

/// A parsed config string: the store and its options. The [module](self) describes the format.
///
/// Two config strings are equal if they mean the same. The order of options, the case of the scheme
/// and the percent-encoding do not matter.
///
/// ```
/// use lock_core::ConfigString;
///
/// # fn main() -> Result<(), lock_core::Error> {
/// let config = ConfigString::parse("redis://app:s3cret@db.internal:6379/0?ttl=20s")?;
/// assert_eq!(config.scheme(), "redis");
/// assert_eq!(config.to_string(), "redis://app:***@db.internal:6379/0?ttl=20s");
/// assert_eq!(ConfigString::parse(&config.expose())?, config);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigString {
    scheme: String,
    user: Option<String>,
    password: Option<Secret>,
    hosts: Vec<Host>,
    path: String,
    options: BTreeMap<String, String>,
}

impl ConfigString {
    /// Parses `text`. This is a pure function of its argument. An absolute path is a `file:` store.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`], with the problem and its fix. [`Error::store`] is `text`
    /// without its secrets.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::parse(text)
    }

    /// Returns the scheme, which is the text before the first colon, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the servers, or what the store has in their place.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns the value of an option, secret or not.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Replaces all hosts by `host`, for example by a proxy.
    #[must_use]
    pub fn at_host(mut self, host: Host) -> Self {
        self.hosts = vec![host];
        self
    }

    /// Removes an option, for example to [add](Self::with_option) it with another value.
    #[must_use]
    pub fn without_option(mut self, name: &str) -> Self {
        self.options.remove(name);
        self
    }

    /// Adds the password, for example one from a safer place than a command line.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if there is a password already, if there is no host, or if
    /// `password` is empty or contains control characters, such as a trailing line break.
    pub fn with_password(mut self, password: Secret) -> Result<Self, Error> {
        let problem = match &self.password {
            Some(_) => "the config string already has a password; leave one out",
            None if self.hosts.is_empty() => "the config string has a password but no host; leave the password out",
            None if password.expose().is_empty() => "the password is empty; leave it out",
            None if password.expose().contains(char::is_control) => {
                "the password contains a control character; is there a trailing line break?"
            }
            None => {
                self.password = Some(password);
                return Ok(self);
            }
        };
        Err(self.error(problem))
    }

    /// Adds an option. `value` is literal, not percent-encoded.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the option is set already, or if `name` or `value` is not
    /// valid in a config string.
    pub fn with_option(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, Error> {
        match parse::add_option(&mut self.options, name.into(), value.into()) {
            Ok(()) => Ok(self),
            Err(problem) => Err(self.error(problem)),
        }
    }

    /// Returns `true` if the config string contains a secret: a password, a user without a password
    /// (often a password in the wrong place), or a secret option. A reference to a secret, such as
    /// `password_file`, does not count.
    pub fn has_secrets(&self) -> bool {
        let lone_user = self.user.is_some()
            && !["password_file", "password_env"].iter().any(|name| self.options.contains_key(*name));
        let secret = |(name, value): (&String, &String)| is_secret(name, value) && !elsewhere::is_reference(name);
        self.password.is_some() || lone_user || self.options.iter().any(secret)
    }

    /// Returns the whole text with `***` in place of each secret, as `Display` prints it. For logs,
    /// and for [`Backend::describe`](crate::backend::Backend::describe).
    ///
    /// A user without a password is hidden too, because it is often a password in the wrong place.
    pub fn redacted(&self) -> String {
        self.to_string()
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, problem).with_operation(Operation::Open).with_store(self.redacted())
    }
}

impl FromStr for ConfigString {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for ConfigString {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&String> for ConfigString {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ConfigString {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}
