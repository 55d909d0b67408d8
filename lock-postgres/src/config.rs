//! The settings of a PostgreSQL store.

use std::{fmt, path::PathBuf, time::Duration};

use lock_core::{
    ConfigString, Error, ErrorKind, Operation,
    config::{Host, Secret},
};

use crate::factory::SSL_MODES;

pub(crate) const DEFAULT_PORT: u16 = 5432;

/// The upper limit of both timeouts. Sums with it cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// PostgreSQL cuts longer names off.
const LONGEST_IDENTIFIER: usize = 63;

/// Whether a connection uses TLS, and what of the server's certificate is checked, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server offers it. The certificate is not checked. This is the default.
    Prefer,
    /// TLS. The authority of the certificate is checked only if one is configured.
    Require,
    /// TLS, with a certificate of a trusted authority.
    VerifyCa,
    /// TLS, with a certificate of a trusted authority for this host name.
    VerifyFull,
}

/// Whether a lock must be on a standby before it counts as acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Replicas {
    /// The server's configuration decides.
    #[default]
    Any,
    /// A synchronous standby must have confirmed each acquire and renewal. Without synchronous
    /// standbys, no lock is granted.
    Sync,
}

/// The format of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Schema {
    /// The format of onelock.
    #[default]
    Native,
    /// The table of ShedLock, a library for Java, with `usingDbTime`. Locks of both exclude each
    /// other. It has no room for tokens, data and long names.
    ShedLock,
}

impl Schema {
    fn default_table(self) -> &'static str {
        match self {
            Self::Native => "onelock",
            Self::ShedLock => "shedlock",
        }
    }
}

/// The servers, and how to log in. Whatever is not set comes from the environment variables of
/// libpq (`PGHOST`, `PGUSER`, …) and from `~/.pgpass`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerConfig {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: Option<String>,
    pub(crate) ssl_mode: Option<SslMode>,
    pub(crate) root_cert: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl ServerConfig {
    /// Creates settings that come from the environment only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a server: a host name, an IP address, or the directory of a Unix socket. The usual port
    /// is 5432. Of several servers, the one that accepts writes is used.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>, port: impl Into<Option<u16>>) -> Self {
        self.hosts.push(Host { name: name.into(), port: port.into() });
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret::new(password));
        self
    }

    /// Sets the database.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Sets whether TLS is used.
    #[must_use]
    pub fn ssl_mode(mut self, mode: SslMode) -> Self {
        self.ssl_mode = Some(mode);
        self
    }

    /// Trusts the authorities in this PEM file.
    #[must_use]
    pub fn root_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.root_cert = Some(path.into());
        self
    }

    /// Sends the client certificate in the PEM file `cert`, with the key in the PEM file `key`.
    #[must_use]
    pub fn client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert = Some(cert.into());
        self.key = Some(key.into());
        self
    }
}

/// The settings of a [`PostgresBackend`](crate::PostgresBackend), which connects at its first
/// operation.
///
/// ```
/// use lock_postgres::{PostgresBackend, PostgresConfig, ServerConfig};
///
/// let server = ServerConfig::new().host("localhost", 5432).user("etl").database("app");
/// let backend = PostgresBackend::new(PostgresConfig::new(server).table("ops.locks"))?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    pub(crate) server: ServerConfig,
    /// The default of the schema if none is chosen.
    pub(crate) table: Option<String>,
    pub(crate) schema: Schema,
    pub(crate) replicas: Replicas,
    pub(crate) wake: bool,
    pub(crate) listen: Option<ServerConfig>,
    pub(crate) named_statements: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
}

impl PostgresConfig {
    /// Creates settings with the table `onelock`.
    pub fn new(server: ServerConfig) -> Self {
        Self {
            server,
            table: None,
            schema: Schema::Native,
            replicas: Replicas::Any,
            wake: true,
            listen: None,
            named_statements: true,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(3),
        }
    }

    /// Sets the table of the locks: `table`, or `schema.table`. Without a schema, it is the first
    /// one on the search path of the user and the database.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// Sets the format of the rows. The table of ShedLock is `shedlock` if none is chosen.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = schema;
        self
    }

    /// Sets whether a synchronous standby must confirm each lock. Default: any.
    #[must_use]
    pub fn replicas(mut self, replicas: Replicas) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets whether waiters are woken by `NOTIFY`. Default: `true`. Otherwise they only poll.
    #[must_use]
    pub fn wake(mut self, wake: bool) -> Self {
        self.wake = wake;
        self
    }

    /// Listens for wake-ups on this server instead, because a pooler between does not deliver them.
    #[must_use]
    pub fn listen(mut self, server: ServerConfig) -> Self {
        self.listen = Some(server);
        self
    }

    /// Sets whether statements that are used often get names, so that the server parses and plans
    /// them once. Default: `true`. A connection through a pooler has no names in any case.
    #[must_use]
    pub fn named_statements(mut self, named: bool) -> Self {
        self.named_statements = named;
        self
    }

    /// Sets the longest time to connect to one server and log in. Default 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the longest time to wait for a reply. Default 3 s.
    ///
    /// A statement waits for a row that another transaction has locked at most half of it. A
    /// connection with an older outstanding reply is replaced.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (option, time) in [("timeout", self.timeout), ("connect_timeout", self.connect_timeout)] {
            if time < Duration::from_millis(2) || time > LONGEST_TIMEOUT {
                return Err(wrong(format!("{option}={time:?} must be at least 2 ms and at most one hour")));
            }
        }
        let parts: Vec<_> = self.table_name().split('.').collect();
        let fits = |part: &&str| (1..=LONGEST_IDENTIFIER).contains(&part.len()) && !part.contains(char::is_control);
        if parts.len() > 2 || !parts.iter().all(fits) {
            return Err(wrong(format!(
                "table={:?} is not the name of a table; write TABLE or SCHEMA.TABLE, each of at most \
                 {LONGEST_IDENTIFIER} bytes",
                self.table_name()
            )));
        }
        if self.schema == Schema::ShedLock && (self.listen.is_some() || self.replicas == Replicas::Sync) {
            return Err(wrong("schema=shedlock has neither listen nor replicas=sync; remove these options"));
        }
        if !self.wake && self.listen.is_some() {
            return Err(wrong("wake=off needs no server to listen on; remove the option listen"));
        }
        for server in [Some(&self.server), self.listen.as_ref()].into_iter().flatten() {
            if server.cert.is_some() != server.key.is_some() {
                return Err(wrong("a client certificate needs both sslcert and sslkey"));
            }
        }
        Ok(())
    }

    /// Whether the name of the table has its schema.
    pub(crate) fn names_schema(&self) -> bool {
        self.table_name().contains('.')
    }

    pub(crate) fn table_name(&self) -> &str {
        self.table.as_deref().unwrap_or(self.schema.default_table())
    }

    /// The table as the config names it, quoted for SQL.
    pub(crate) fn quoted_table(&self) -> String {
        self.table_name().split('.').map(quoted).collect::<Vec<_>>().join(".")
    }
}

/// A name, quoted for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl ServerConfig {
    /// Returns the servers and the database as a config string.
    fn place(&self, hosts: impl Iterator<Item = Host>) -> ConfigString {
        let path = self.database.as_ref().map(|database| format!("/{database}"));
        ConfigString::of("postgres", hosts, path.unwrap_or_default())
    }

    /// Adds the settings of TLS.
    fn with_tls(&self, printed: ConfigString) -> ConfigString {
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let mode = SSL_MODES.iter().find(|(_, mode)| Some(*mode) == self.ssl_mode);
        printed
            .with_setting("sslmode", mode.map(|(word, _)| *word))
            .with_setting("sslrootcert", file(&self.root_cert))
            .with_setting("sslcert", file(&self.cert))
            .with_setting("sslkey", file(&self.key))
    }
}

impl PostgresConfig {
    /// Returns what chooses the rows of the locks, as a config string without secrets: the name of
    /// the store in logs and errors.
    pub(crate) fn name(&self) -> String {
        // With the usual port, one server would have two names.
        let usual = |host: &Host| Host { port: host.port.filter(|port| *port != DEFAULT_PORT), ..host.clone() };
        self.with_table(self.server.place(self.server.hosts.iter().map(usual))).expose()
    }

    fn with_table(&self, printed: ConfigString) -> ConfigString {
        let table = Some(self.table_name()).filter(|table| *table != self.schema.default_table());
        printed
            .with_setting("schema", (self.schema == Schema::ShedLock).then_some("shedlock"))
            .with_setting("table", table)
    }
}

impl fmt::Display for PostgresConfig {
    /// Formats all settings except logins as a config string, which parses to the same settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::new(ServerConfig::new());
        let printed = |server: &ServerConfig| server.with_tls(server.place(server.hosts.iter().cloned()));
        let printed = self
            .with_table(printed(&self.server))
            .with_setting("replicas", (self.replicas == Replicas::Sync).then_some("sync"))
            .with_setting("wake", (!self.wake).then_some("off"))
            .with_setting("statements", (!self.named_statements).then_some("unnamed"))
            .with_setting("listen", self.listen.as_ref().map(|server| printed(server).expose()))
            .with_duration("connect_timeout", self.connect_timeout, default.connect_timeout)
            .with_duration("timeout", self.timeout, default.timeout);
        f.write_str(&printed.expose())
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message).with_operation(Operation::Open)
}
