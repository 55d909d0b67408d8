//! Parses config strings for PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    ConfigString, Error,
    backend::Backend,
    config::{BackendFactory, Host, StoreConfig},
};

use crate::{PostgresBackend, PostgresConfig, Replicas, Schema, ServerConfig, SslMode};

/// Opens stores by PostgreSQL config strings. `docs/postgres.md` describes their forms and options.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresFactory;

#[async_trait]
impl BackendFactory for PostgresFactory {
    fn schemes(&self) -> &[&str] {
        &["postgres", "postgresql"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(PostgresBackend::new(PostgresConfig::take(config)?)?))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        PostgresConfig::take(config).map(drop)
    }
}

impl PostgresConfig {
    /// Parses a config string, such as `postgres://etl:s3cret@db.internal/app?table=ops.locks`.
    ///
    /// Opens no file and no connection, and reads no environment variable.
    ///
    /// # Errors
    /// Of kind [`Config`](lock_core::ErrorKind::Config), with the mistake and how to fix it.
    pub fn from_url(text: &str) -> Result<Self, Error> {
        Self::take(&mut StoreConfig::from(ConfigString::parse(text)?))
    }

    /// Takes the settings out of `store`, and leaves none.
    ///
    /// # Errors
    /// Of kind [`Config`](lock_core::ErrorKind::Config), with the mistake and how to fix it.
    pub fn take(store: &mut StoreConfig) -> Result<Self, Error> {
        let mut config = Self::new(ServerConfig::take(store)?);
        config.table = store.take_string("table");
        let schemas = [("native", Schema::Native), ("shedlock", Schema::ShedLock)];
        config.schema = store.take_choice("schema", &schemas)?.unwrap_or_default();
        let replicas = [("any", Replicas::Any), ("sync", Replicas::Sync)];
        config.replicas = store.take_choice("replicas", &replicas)?.unwrap_or_default();
        config.wake = store.take_choice("wake", &[("listen", true), ("off", false)])?.unwrap_or(true);
        let statements = [("auto", true), ("unnamed", false)];
        config.named_statements = store.take_choice("statements", &statements)?.unwrap_or(true);
        config.connect_timeout = store.take_duration("connect_timeout")?.unwrap_or(config.connect_timeout);
        config.timeout = store.take_duration("timeout")?.unwrap_or(config.timeout);
        let listen = store.take_string("listen");
        store.finish()?;
        if let Some(url) = listen {
            config.listen = Some(listen_server(&url)?);
        }
        config.check().map_err(|error| error.with_store(store.redacted()))?;
        Ok(config)
    }
}

/// Parses the option `listen`, a config string of its own.
fn listen_server(url: &str) -> Result<ServerConfig, Error> {
    let mut store = StoreConfig::from(ConfigString::parse(url)?.fetch_secrets()?);
    if !PostgresFactory.schemes().contains(&store.scheme()) {
        return Err(store.error("listen must be the address of the server itself, such as postgres://HOST:PORT/DB"));
    }
    let server = ServerConfig::take(&mut store)?;
    store.finish()?;
    Ok(server)
}

impl ServerConfig {
    fn take(store: &mut StoreConfig) -> Result<Self, Error> {
        let mut server = Self { hosts: store.take_hosts(), ..Self::new() };
        if let Some(name) = store.take_string("host") {
            if !server.hosts.is_empty() {
                return Err(store.error("there are hosts before the path already; remove the option host"));
            }
            server.hosts.push(Host { name, port: None });
        }
        server.user = store.take_user().filter(|user| !user.is_empty()).or_else(|| store.take_string("user"));
        server.password = store.take_password().or_else(|| store.take_secret("password"));
        let path = store.take_path();
        match path.trim_start_matches('/') {
            "" => {}
            name if name.contains('/') => {
                return Err(store.error(format!("\"{name}\" is not the name of a database; write postgres://HOST/DB")));
            }
            name => server.database = Some(name.into()),
        }
        server.ssl_mode = store.take_choice("sslmode", SSL_MODES)?;
        server.root_cert = store.take_string("sslrootcert").map(Into::into);
        server.cert = store.take_string("sslcert").map(Into::into);
        server.key = store.take_string("sslkey").map(Into::into);
        Ok(server)
    }
}

/// The words of libpq. Its `allow` prefers a connection without TLS, which has no use.
pub(crate) const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::ErrorKind;
    use test_support::printed_settings::{are_all, stay_hidden, survive};

    use super::*;

    #[test]
    fn config_strings_are_read() {
        let at = |host: &str, port: Option<u16>| ServerConfig::new().host(host, port);
        for (text, expected) in [
            ("postgres:", PostgresConfig::new(ServerConfig::new())),
            ("postgres://h", PostgresConfig::new(at("h", None))),
            (
                "postgresql://u:p%40@h:7/db",
                PostgresConfig::new(at("h", Some(7)).user("u").password("p@").database("db")),
            ),
            ("postgres://a,b:7/db", PostgresConfig::new(at("a", None).host("b", 7).database("db"))),
            ("postgres://%2Frun%2Fpg/db", PostgresConfig::new(at("/run/pg", None).database("db"))),
            (
                "postgres:///db?host=/run/pg&user=u&password=p",
                PostgresConfig::new(at("/run/pg", None).database("db").user("u").password("p")),
            ),
            (
                "postgres://h?sslmode=verify-full&sslrootcert=/ca&sslcert=/c&sslkey=/k",
                PostgresConfig::new(
                    at("h", None).ssl_mode(SslMode::VerifyFull).root_cert("/ca").client_certificate("/c", "/k"),
                ),
            ),
            (
                "postgres://h?table=ops.locks&replicas=sync&wake=off&statements=unnamed&timeout=1s&connect_timeout=4s",
                PostgresConfig::new(at("h", None))
                    .table("ops.locks")
                    .replicas(Replicas::Sync)
                    .wake(false)
                    .named_statements(false)
                    .timeout(Duration::from_secs(1))
                    .connect_timeout(Duration::from_secs(4)),
            ),
            ("postgres://h?schema=shedlock", PostgresConfig::new(at("h", None)).schema(Schema::ShedLock)),
            (
                "postgres://pooler/db?listen=postgres://u:p%2540%40direct:7/db",
                PostgresConfig::new(at("pooler", None).database("db"))
                    .listen(at("direct", Some(7)).user("u").password("p@").database("db")),
            ),
        ] {
            assert_eq!(PostgresConfig::from_url(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn printed_settings_lead_to_the_same_settings() {
        let options = [
            "table=ops.lo%26cks%20%25",
            "schema=shedlock",
            "schema=shedlock&table=x",
            "replicas=sync",
            "wake=off",
            "statements=unnamed",
            "connect_timeout=7s",
            "timeout=1500ms",
            "sslmode=require",
            "sslmode=verify-full&sslrootcert=/a%20b&sslcert=/c&sslkey=/k",
            "listen=postgres://direct:7/a%2520b?sslmode=disable%26sslrootcert=/a%2520b",
        ];
        let (parse, logins) = (PostgresConfig::from_url, ["user=u&password=hunter2"]);
        for url in ["postgres://a,[::1]:5432,%2Frun%2Fpg:7/d%20b", "postgres://a:5432", "postgres:///db", "postgres:"] {
            survive(parse, url, &options);
            stay_hidden(parse, url, &logins);
        }
        let host = ["host=/run/pg"];
        survive(parse, "postgres:", &host);
        are_all(parse, "postgres:", &[&options, &logins, &host]);
        let with_passwords = parse("postgres://u:hunter2@h?listen=postgres://u:hunter2%40direct").unwrap();
        assert_eq!(with_passwords.to_string(), "postgres://h?listen=postgres://direct");
    }

    #[test]
    fn the_usual_port_is_not_in_the_name_of_a_store() {
        for (text, shown) in [
            ("postgres://u:s3cret@h:5432/db", "postgres://h/db"),
            ("postgres://a,b:5432,c:5433/db?table=x", "postgres://a,b,c:5433/db?table=x"),
        ] {
            assert_eq!(PostgresConfig::from_url(text).unwrap().name(), shown, "{text}");
        }
    }

    #[test]
    fn errors_name_the_mistake_and_hide_secrets() {
        for (text, hint) in [
            ("postgres://h/a/b", "name of a database"),
            ("postgres://h?tabel=x", "\"table\""),
            ("postgres://h?table=a.b.c", "SCHEMA.TABLE"),
            ("postgres://h?sslmode=verify", "verify-ca"),
            ("postgres://h?schema=shedlock&replicas=sync", "remove these options"),
            ("postgres://h?host=/run", "remove the option host"),
            ("postgres://h?sslcert=/c", "both sslcert and sslkey"),
            ("postgres://h?timeout=0s", "at least 2 ms"),
            ("postgres://u:s3cret@h?wake=off&listen=postgres://u:s3cret%40h", "remove the option listen"),
            ("postgres://h?listen=redis://u:s3cret%40h", "address of the server itself"),
            ("postgres://h?listen=postgres://u:s3cret%40h?table%3Dx", "\"table\""),
        ] {
            let error = PostgresConfig::from_url(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains(hint) && !format!("{error:?}").contains("s3cret"), "{error}");
        }
    }
}
