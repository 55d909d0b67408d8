//! Secrets that stand elsewhere: `password_file=/run/secrets/redis`, `password_env=REDIS_PASSWORD`.

use std::{env, fs};

use super::{ConfigString, Secret, secret::is_secret_name};
use crate::types::Error;

/// Where a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    Environment,
}

/// The secret that the option `name` says the place of, and what sort of place that is.
fn refers_to(name: &str) -> Option<(&str, Place)> {
    let file = name.strip_suffix("_file").map(|secret| (secret, Place::File));
    file.or(name.strip_suffix("_env").map(|secret| (secret, Place::Environment)))
        .filter(|(secret, _)| is_secret_name(secret))
}

/// Whether the option says where a secret is, rather than what it is.
pub(super) fn is_reference(name: &str) -> bool {
    refers_to(name).is_some()
}

impl ConfigString {
    /// Fetches the secrets that stand elsewhere: an option `NAME_file` becomes `NAME` with the content of that file, less a line end behind it; `NAME_env`
    /// becomes `NAME` with the value of that environment variable; for all options that are secret by their names, and for `password`, which is
    /// the password before the host. [`Registry::open`](crate::Registry::open) does this.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`](crate::ErrorKind::Config) when a file cannot be read, a variable is not set, what is there is no secret that could stand in
    /// a config string, or the secret stands in the config string too.
    pub fn fetch_secrets(mut self) -> Result<Self, Error> {
        let (references, options): (Vec<_>, Vec<_>) =
            self.options.into_iter().partition(|(name, _)| is_reference(name));
        self.options = options.into_iter().collect();
        for (reference, place) in &references {
            let Some((name, kind)) = refers_to(reference) else { continue };
            let secret = fetch(kind, place).map_err(|(problem, source)| {
                // Without what stands there: often it is the secret itself, from a `$VARIABLE` that a shell has replaced.
                let error = self.error(format!("{reference}: {problem}"));
                match source {
                    Some(source) => error.with_source(source),
                    None => error,
                }
            })?;
            self = if name == "password" {
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
    fn only_the_places_of_secrets_are_references() {
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
