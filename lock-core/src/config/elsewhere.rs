//! Secrets from files and environment variables: `password_file=/run/secrets/redis`,
//! `password_env=REDIS_PASSWORD`.

use std::{env, fs};

use super::{ConfigString, Secret, secret::is_secret_name};
use crate::types::Error;

/// The kind of place that has a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    Environment,
}

/// Returns the secret option that the option `name` refers to, and the kind of place.
fn refers_to(name: &str) -> Option<(&str, Place)> {
    let file = name.strip_suffix("_file").map(|secret| (secret, Place::File));
    file.or(name.strip_suffix("_env").map(|secret| (secret, Place::Environment)))
        .filter(|(secret, _)| is_secret_name(secret))
}

/// Returns `true` if the option contains the place of a secret, not the secret itself.
pub(super) fn is_reference(name: &str) -> bool {
    refers_to(name).is_some()
}

impl ConfigString {
    /// Replaces references to secrets by the secrets. [`Registry::open`](crate::Registry::open)
    /// calls this.
    ///
    /// - `NAME_file` becomes `NAME` with the content of that file, without a trailing line break.
    /// - `NAME_env` becomes `NAME` with the value of that environment variable.
    ///
    /// This applies to all options that are secret by name. `password` is the password before the
    /// host, or the option of that name where there is no host, as for a socket.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`](crate::ErrorKind::Config) if a file cannot be read, a variable
    /// is not set, the secret is not valid in a config string, or the config string already
    /// contains it.
    pub fn fetch_secrets(self) -> Result<Self, Error> {
        self.replace_references(fetch)
    }

    /// Replaces references to secrets by a text that is no secret, to check the other settings
    /// without reading a file or the environment.
    pub(super) fn without_secrets(self) -> Result<Self, Error> {
        self.replace_references(|_, _| Ok("unread".to_owned()))
    }

    fn replace_references(
        mut self,
        fetch: impl Fn(Place, &str) -> Result<String, (&'static str, Option<std::io::Error>)>,
    ) -> Result<Self, Error> {
        let (references, options): (Vec<_>, Vec<_>) =
            self.options.into_iter().partition(|(name, _)| is_reference(name));
        self.options = options.into_iter().collect();
        for (reference, place) in &references {
            let Some((name, kind)) = refers_to(reference) else { continue };
            let secret = fetch(kind, place).map_err(|(problem, source)| {
                // The message omits the value: it is often the secret itself, from a `$VARIABLE`
                // that a shell expanded.
                let error = self.error(format!("{reference}: {problem}"));
                match source {
                    Some(source) => error.with_source(source),
                    None => error,
                }
            })?;
            // The password of a socket, which has no host, is an option.
            self = if name == "password" && !self.hosts.is_empty() {
                self.with_password(Secret::new(secret))?
            } else {
                self.with_option(name, secret)?
            };
        }
        Ok(self)
    }
}

fn fetch(kind: Place, place: &str) -> Result<String, (&'static str, Option<std::io::Error>)> {
    match kind {
        Place::Environment => {
            env::var(place).map_err(|_| ("there is no such environment variable; write its name, without \"$\"", None))
        }
        Place::File => {
            let text = fs::read_to_string(place).map_err(|error| ("this file cannot be read", Some(error)))?;
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_the_places_of_secrets() {
        for name in
            ["password_file", "password_env", "sentinel_password_file", "secret_access_key_env", "session_token_file"]
        {
            assert!(is_reference(name), "{name}");
        }
        for name in ["password", "ca", "cert_file", "file", "_file", "profile_env", "password_path"] {
            assert!(!is_reference(name), "{name}");
        }
    }
}
