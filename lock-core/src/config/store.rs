//! The parts of a config string, which a store takes one by one until none is left.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    ConfigString, Host, Secret, duration,
    secret::{MASK, is_secret, is_secret_name},
    suggest::did_you_mean,
};
use crate::types::{Error, ErrorKind, Operation};

/// The settings that [`BackendFactory::open`](crate::config::BackendFactory::open) takes.
///
/// Each `take_…` removes a part and marks it as known. [`finish`](Self::finish) returns an error if
/// any part is left. So no setting is ignored, such as a misspelt option, or a password for a store
/// without passwords.
///
/// ```
/// # use lock_core::{ConfigString, Error, config::StoreConfig};
/// fn settings(config: &mut StoreConfig) -> Result<(String, bool), Error> {
///     let region = config.take_string("region").unwrap_or_else(|| "eu-west-1".into());
///     let create = config.take_bool("create")?.unwrap_or(false);
///     config.finish()?;
///     Ok((region, create))
/// }
///
/// # fn main() -> Result<(), Error> {
/// let config = ConfigString::parse("x:?region=us-east-1&craete=true")?;
/// let error = settings(&mut config.into()).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "open on x:?craete=true&region=us-east-1: there is no option \"craete\"; \
///      did you mean \"create\"? Known: create, region"
/// );
/// # Ok(())
/// # }
/// ```
pub struct StoreConfig {
    left: ConfigString,
    /// The whole config string without secrets, for messages.
    shown: String,
    known: BTreeSet<&'static str>,
}

impl StoreConfig {
    /// Returns the scheme, for a store that has several.
    pub fn scheme(&self) -> &str {
        &self.left.scheme
    }

    /// Returns the original config string, with `***` in place of each secret.
    pub fn redacted(&self) -> &str {
        &self.shown
    }

    /// Takes the user.
    pub fn take_user(&mut self) -> Option<String> {
        self.left.user.take()
    }

    /// Takes the password.
    pub fn take_password(&mut self) -> Option<Secret> {
        self.left.password.take()
    }

    /// Takes all hosts; empty when there are none.
    pub fn take_hosts(&mut self) -> Vec<Host> {
        std::mem::take(&mut self.left.hosts)
    }

    /// Takes the only host. `what` is its name in messages, such as `HOST:PORT` or `TABLE`.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if there is no host or more than one.
    pub fn take_host(&mut self, what: &str) -> Result<Host, Error> {
        let scheme = self.scheme();
        match self.left.hosts.len() {
            1 => Ok(self.left.hosts.remove(0)),
            0 => Err(self.error(format!("{what} is missing; write {scheme}://{what}"))),
            n => Err(self.error(format!("there are {n} hosts, but {scheme} takes one"))),
        }
    }

    /// Takes the path, with its leading slash if any; empty if there is none.
    pub fn take_path(&mut self) -> String {
        std::mem::take(&mut self.left.path)
    }

    /// Takes the path as a directory, absolute (`file:///a/b`) or relative to the working directory
    /// (`file:a/b`).
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if there is no path, if there is a host instead, or if the
    /// path begins with `~`.
    pub fn take_directory(&mut self) -> Result<PathBuf, Error> {
        let path = self.take_path();
        let scheme = self.scheme();
        if let Some(host) = self.left.hosts.first() {
            return Err(self.error(format!(
                "{scheme} takes no host, but \"{host}\" is in its place; write {scheme}:///{host}{path} for an \
                 absolute \
                 directory, {scheme}:{host}{path} for a relative one"
            )));
        }
        if path.is_empty() {
            return Err(self.error(format!("the directory is missing; write {scheme}:///var/lib/app/locks")));
        }
        if path.split('/').find(|part| !part.is_empty()).is_some_and(|part| part.starts_with('~')) {
            return Err(self.error("\"~\" is not expanded here; write the directory in full"));
        }
        Ok(path.into())
    }

    /// Takes an option as it is.
    pub fn take_string(&mut self, name: &'static str) -> Option<String> {
        self.known.insert(name);
        self.left.options.remove(name)
    }

    /// Takes an option that must not be printed. Its name has to be that of a secret (`password`,
    /// `token`, …).
    pub fn take_secret(&mut self, name: &'static str) -> Option<Secret> {
        debug_assert!(
            is_secret_name(name),
            "{name} would be printed in errors, because its name is not that of a secret"
        );
        self.take_string(name).map(Secret::new)
    }

    /// Takes a duration with its unit.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the value is not a duration.
    pub fn take_duration(&mut self, name: &'static str) -> Result<Option<Duration>, Error> {
        self.take_with(name, duration::parse)
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the value is neither.
    pub fn take_bool(&mut self, name: &'static str) -> Result<Option<bool>, Error> {
        self.take_choice(name, &[("true", true), ("false", false)])
    }

    /// Takes a whole number within `range`.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the value is not a whole number within `range`.
    pub fn take_u64(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Error> {
        self.take_with(name, |text| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && range.contains(number));
            number.ok_or_else(|| format!("is not a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// Takes one of several words.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if the value is not one of them.
    pub fn take_choice<T: Clone>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        self.take_with(name, |text| {
            let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| choice.clone());
            let words = || choices.iter().map(|(word, _)| *word);
            chosen.ok_or_else(|| format!("must be one of {}{}", join(words()), did_you_mean(text, words())))
        })
    }

    /// Takes an option and parses it by `parse`, whose error continues a sentence that begins with
    /// the option: `is not an octal number`.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if `parse` fails.
    pub fn take_with<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.take_string(name) else { return Ok(None) };
        parse(&text).map(Some).map_err(|problem| {
            let shown = if is_secret(name, &text) { MASK } else { &text };
            self.error(format!("{name}={shown} {problem}"))
        })
    }

    /// Checks that no part is left. Call it before the first I/O.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`] if a part is left. The message contains the nearest option and
    /// all known ones.
    pub fn finish(&self) -> Result<(), Error> {
        let ConfigString { scheme, user, password, hosts, path, options } = &self.left;
        if let Some(name) = options.keys().next() {
            let known = || self.known.iter().copied();
            let near = did_you_mean(name, known());
            let end = if near.is_empty() { ". Known: " } else { " Known: " };
            return Err(self.error(format!("there is no option \"{name}\"{near}{end}{}", join(known()))));
        }
        if user.is_some() || password.is_some() {
            return Err(self.error(format!("{scheme} takes no user and password; leave them out")));
        }
        if let Some(host) = hosts.first() {
            return Err(self.error(format!("{scheme} takes no host; leave \"{host}\" out")));
        }
        if !path.is_empty() {
            return Err(self.error(format!("{scheme} takes no path; leave it out")));
        }
        Ok(())
    }

    /// Returns an error of kind [`ErrorKind::Config`] about this config string.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, message).with_operation(Operation::Open).with_store(&self.shown)
    }
}

impl From<ConfigString> for StoreConfig {
    fn from(config: ConfigString) -> Self {
        Self { shown: config.redacted(), left: config, known: BTreeSet::new() }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig").field("of", &self.shown).field("left", &self.left).finish_non_exhaustive()
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
