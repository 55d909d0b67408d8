//! Config strings: which store to use and how, in one line.
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
//! Every part is percent-encoded where it needs to be: in users and passwords all but letters, digits and `-._~`;
//! everywhere spaces (`%20`), `%` (`%25`), `#` (`%23`) and `@` (`%40`); in paths `?` (`%3F`); in values `&` (`%26`).
//! `+` stands for itself. What is decoded is UTF-8 without control characters. `scheme://` and `scheme:` with nothing behind
//! are the same. Options have no empty values and do not repeat.
//!
//! # Options of every store
//!
//! | option | value | default | see |
//! |---|---|---|---|
//! | `ttl` | duration | 30s | [`LockRequest::ttl`](crate::LockRequest::ttl); an error on files |
//! | `margin` | duration | a tenth of the ttl | [`LockRequest::margin`](crate::LockRequest::margin); an error on files that are not on NFS |
//! | `renew` | `auto`, `manual` or a duration | `auto` | [`Renew`](crate::Renew) |
//! | `grace` | duration | 0s | [`LockRequest::grace`](crate::LockRequest::grace) |
//! | `owner` | text | `host:pid-random` | [`LockRequest::owner`](crate::LockRequest::owner) |
//! | `prefix` | text | none | [`LockerBuilder::prefix`](crate::LockerBuilder::prefix) |
//! | `min_hold` | duration | 0s | [`LockRequest::min_hold`](crate::LockRequest::min_hold) |
//! | `max_hold` | duration | no limit | [`LockRequest::max_hold`](crate::LockRequest::max_hold) |
//! | `require` | [capabilities](crate::Capability), with commas | none | [`LockerBuilder::require`](crate::LockerBuilder::require) |
//!
//! A duration is a number with its unit, `ms`, `s`, `m`, `h` or `d`, or several: `250ms`, `30s`, `1h30m`.
//! Other options belong to the store; its page has them. One that the store does not know, or cannot honour, is an error.
//!
//! # Secrets
//!
//! Neither passwords, nor options that are secret by name (`password`, `token`, `secret`, …) or hold an address with a password in it,
//! are ever printed: not by `Debug`, `Display` or in an error, even in one about a text that cannot be parsed. [`ConfigString::expose`] is the one way to see them.
//!
//! A secret need not stand in the config string, where `ps` or a copy of it shows it: `password_file=/run/secrets/redis` is the password in that
//! file, `password_env=REDIS_PASSWORD` the one in that environment variable; `_file` and `_env` work behind the name of every option that is secret
//! ([`ConfigString::fetch_secrets`]).
//!
//! # Fuzzing
//!
//! [`ConfigString::parse`] is a pure function of any text; what it returns is written by `expose` as a text that parses to the same.

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

use std::{collections::BTreeMap, fmt, str::FromStr};

pub(crate) use common::Common;
pub use duration::{LONGEST_DURATION, parse_duration};
pub use host::Host;
pub use registry::{BackendFactory, Registry};
pub use secret::Secret;
use secret::is_secret;
#[cfg(feature = "serde")]
pub use settings::Settings;
pub use store::StoreConfig;
use write::Text;

use crate::types::{Error, ErrorKind, Operation};

/// A config string, parsed: which store, and with which options. The [module](self) describes the format.
///
/// Two are equal when they mean the same: the order of options, the case of the scheme and how parts were encoded do not matter.
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
    /// Parses `text`. A pure function: it looks at nothing but its argument.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`], with what is wrong and how to mend it, and with `text` less its secrets as
    /// [`Error::store`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::parse(text)
    }

    /// Which sort of store, in lower case: what stands before the first colon.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The servers, or what else stands in their place.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The value of an option, secret or not.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// The same store under another address, such as that of a proxy.
    #[must_use]
    pub fn at_host(mut self, host: Host) -> Self {
        self.hosts = vec![host];
        self
    }

    /// Without an option, to [add](Self::with_option) it with another value.
    #[must_use]
    pub fn without_option(mut self, name: &str) -> Self {
        self.options.remove(name);
        self
    }

    /// Adds the password, for one that comes from a safer place than a command line.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] when there is a password already, no host that could want one, or when `password` is empty or
    /// has control characters, such as the line end of the file that it was read from.
    pub fn with_password(mut self, password: Secret) -> Result<Self, Error> {
        let problem = match &self.password {
            Some(_) => "there is a password in the config string already; leave one out",
            None if self.hosts.is_empty() => "there is no host that could want a password; leave it out",
            None if password.expose().is_empty() => "the password is empty; leave it out",
            None if password.expose().contains(char::is_control) => {
                "the password has a control character in it; is there a line end too many?"
            }
            None => {
                self.password = Some(password);
                return Ok(self);
            }
        };
        Err(self.error(problem))
    }

    /// Adds an option, for one that comes from elsewhere; `value` as it is, not percent-encoded.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] when the option is there already, or when `name` or `value` could not stand in a config string.
    pub fn with_option(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, Error> {
        match parse::add_option(&mut self.options, name.into(), value.into()) {
            Ok(()) => Ok(self),
            Err(problem) => Err(self.error(problem)),
        }
    }

    /// Whether there is a secret in it: a password, a user without one (which often is a password in the wrong place), or an option that is secret. What
    /// only says where a secret is, such as `password_file`, is none.
    pub fn has_secrets(&self) -> bool {
        let lone_user = self.user.is_some()
            && !["password_file", "password_env"].iter().any(|name| self.options.contains_key(*name));
        let secret = |(name, value): (&String, &String)| is_secret(name, value) && !elsewhere::is_reference(name);
        self.password.is_some() || lone_user || self.options.iter().any(secret)
    }

    /// The whole text with `***` in place of each secret, as `Display` prints it: for logs, and for
    /// [`Backend::describe`](crate::backend::Backend::describe). A user without a password is hidden too: it often is a password
    /// in the wrong place.
    pub fn redacted(&self) -> String {
        self.to_string()
    }

    /// The whole text with its secrets; parses back to the same.
    pub fn expose(&self) -> String {
        Text { config: self, masked: false }.to_string()
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
