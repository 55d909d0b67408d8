//! Completes settings from where libpq looks too: environment variables, `~/.pgpass`, defaults.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lock_core::{
    Error, ErrorKind, Operation,
    config::{Host, Secret},
};

use crate::{
    config::{DEFAULT_PORT, ServerConfig, SslMode},
    factory::SSL_MODES,
};

/// Where libpq looks for a socket: its default in Debian, and its own.
const SOCKET_DIRECTORIES: &[&str] = &["/run/postgresql", "/var/run/postgresql", "/tmp"];

/// Returns `server` with every missing setting filled in, except the password, which depends on
/// the host.
pub(crate) fn completed(server: &ServerConfig) -> Result<ServerConfig, Error> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut server = with_variables(server.clone(), &variable)?;
    if server.hosts.is_empty() {
        server.hosts.push(Host { name: local_host(DEFAULT_PORT), port: None });
    }
    if server.user.is_none() {
        let user = whoami::username().map_err(|error| {
            let message = "the name of this user is unknown; add a user to the configuration, or set PGUSER";
            Error::new(ErrorKind::Config, message).with_operation(Operation::Open).with_source(error)
        })?;
        server.user = Some(user);
    }
    if server.database.is_none() {
        server.database.clone_from(&server.user);
    }
    if server.root_cert.is_none() {
        server.root_cert = home().map(|home| home.join(".postgresql/root.crt")).filter(|path| path.exists());
    }
    Ok(server)
}

/// Fills settings in from the variables of libpq.
fn with_variables(mut server: ServerConfig, variable: &dyn Fn(&str) -> Option<String>) -> Result<ServerConfig, Error> {
    let port = variable("PGPORT").map(|text| text.parse::<u16>().map_err(|_| wrong("PGPORT", &text))).transpose()?;
    if server.hosts.is_empty() {
        let names = variable("PGHOST").unwrap_or_default();
        let named = names.split(',').filter(|name| !name.is_empty());
        server.hosts = named.map(|name| Host { name: name.into(), port: None }).collect();
        if let (true, Some(port)) = (server.hosts.is_empty(), port) {
            server.hosts.push(Host { name: local_host(port), port: None });
        }
    }
    for host in &mut server.hosts {
        host.port = host.port.or(port);
    }
    server.user = server.user.or_else(|| variable("PGUSER"));
    server.password = server.password.or_else(|| variable("PGPASSWORD").map(Secret::new));
    server.database = server.database.or_else(|| variable("PGDATABASE"));
    if let (None, Some(word)) = (server.ssl_mode, variable("PGSSLMODE")) {
        let mode = SSL_MODES.iter().find(|(known, _)| *known == word);
        server.ssl_mode = Some(mode.ok_or_else(|| wrong("PGSSLMODE", &word))?.1);
    }
    server.root_cert = server.root_cert.or_else(|| variable("PGSSLROOTCERT").map(PathBuf::from));
    if server.cert.is_none() {
        server.cert = variable("PGSSLCERT").map(PathBuf::from);
        server.key = variable("PGSSLKEY").map(PathBuf::from);
    }
    Ok(server)
}

fn wrong(variable: &str, value: &str) -> Error {
    let message = format!("the environment variable {variable} has the value {value:?}, which is not valid there");
    Error::new(ErrorKind::Config, message).with_operation(Operation::Open)
}

/// The directory of the local server's socket, or `localhost`.
fn local_host(port: u16) -> String {
    let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRECTORIES.iter().find(has_socket).map_or("localhost", |directory| directory).to_owned()
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Whether a connection to `server` uses TLS, and what it checks.
pub(crate) fn ssl_mode(server: &ServerConfig) -> SslMode {
    server.ssl_mode.unwrap_or(SslMode::Prefer)
}

/// Looks the password for `host` up in the password file of libpq.
///
/// As libpq does, ignores a file that other users can read, with a warning.
pub(crate) fn password_from_file(server: &ServerConfig, host: &Host) -> Option<Secret> {
    let path = env::var_os("PGPASSFILE").map(PathBuf::from).or_else(|| home().map(|home| home.join(".pgpass")))?;
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    if metadata.mode() & 0o077 != 0 {
        let file = path.display();
        tracing::warn!(%file, "the password file is ignored, because other users can read it; set its mode to 0600");
        return None;
    }
    let text = fs::read_to_string(&path).ok()?;
    let port = host.port.unwrap_or(DEFAULT_PORT).to_string();
    // libpq writes a socket in its default directory as localhost.
    let name = if SOCKET_DIRECTORIES.contains(&host.name.as_str()) { "localhost" } else { &host.name };
    let wanted = [name, &port, server.database.as_deref()?, server.user.as_deref()?];
    text.lines().find_map(|line| matching(line, &wanted)).map(Secret::new)
}

/// Returns the password of a line `host:port:database:user:password` that matches.
pub(crate) fn matching(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => fields.last_mut()?.extend(chars.next()),
            // The password is the rest of the line.
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields.last_mut()?.push(c),
        }
    }
    let password = fields.get(4)?.clone();
    fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        let value = match name {
            "PGHOST" => "a,b",
            "PGPORT" => "7",
            "PGUSER" => "u",
            "PGPASSWORD" => "p",
            "PGDATABASE" => "d",
            "PGSSLMODE" => "verify-ca",
            "PGSSLROOTCERT" => "/ca",
            "PGSSLCERT" => "/c",
            "PGSSLKEY" => "/k",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn variables_fill_in_only_what_is_missing() {
        let all = with_variables(ServerConfig::new(), &variable).unwrap();
        let expected = ServerConfig::new().host("a", 7).host("b", 7).user("u").password("p").database("d");
        assert_eq!(all, expected.ssl_mode(SslMode::VerifyCa).root_cert("/ca").client_certificate("/c", "/k"));
        let own = ServerConfig::new().host("h", 1).user("x").password("y").database("z").ssl_mode(SslMode::Disable);
        let own = own.root_cert("/r").client_certificate("/1", "/2");
        assert_eq!(with_variables(own.clone(), &variable).unwrap(), own);
        let error = with_variables(ServerConfig::new(), &|name| (name == "PGPORT").then(|| "x".into())).unwrap_err();
        assert!(error.to_string().contains("PGPORT"), "{error}");
    }

    #[test]
    fn password_lines_match_as_in_libpq() {
        let wanted = ["h", "5432", "d", "u"];
        for (line, password) in [
            ("h:5432:d:u:p", Some("p")),
            ("*:*:*:*:p:q", Some("p:q")),
            (r"*:*:*:u:a\:b\\c", Some(r"a:b\c")),
            ("# *:*:*:*:p", None),
            ("other:*:*:*:p", None),
            ("*:*:*", None),
            ("", None),
        ] {
            assert_eq!(matching(line, &wanted).as_deref(), password, "{line}");
        }
        assert_eq!(matching(r"\:\:1:*:*:*:p", &["::1", "1", "d", "u"]).as_deref(), Some("p"));
    }
}
