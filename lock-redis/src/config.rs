//! The settings of a Redis store.

use std::{fmt, path::PathBuf, time::Duration};

use lock_core::{
    ConfigString, Error, ErrorKind, Operation,
    config::{Host, Secret},
};

use crate::keys::default_prefix;

/// The ttl of a lock for which the user chooses none.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// The upper limit of both timeouts. Sums with it cannot overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where a Redis server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Creates a TCP address. The usual port is 6379, and 26379 for sentinels.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }

    /// The host of a TCP address.
    fn host(&self) -> Option<Host> {
        match self {
            Self::Tcp { host, port } => Some(Host { name: host.clone(), port: Some(*port) }),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => Host { name: host.clone(), port: Some(*port) }.fmt(f),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The arrangement of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// One server.
    Standalone(Address),
    /// The primary that the sentinels name.
    Sentinel {
        /// The sentinels to ask.
        sentinels: Vec<Address>,
        /// The name under which the sentinels monitor the primary, often `mymaster`.
        service: String,
    },
    /// A Redis Cluster, found through any of its nodes.
    Cluster(Vec<Address>),
    /// Independent servers, of which a majority decides (the Redlock algorithm).
    Quorum(Vec<Address>),
}

/// Another client whose locks and onelock's exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compat {
    /// `Lock` of the Python package `redis`, and other clients that use the name itself as the key:
    /// redsync, redislock, node-redlock.
    RedisPy,
    /// The Python package `python-redis-lock`.
    PythonRedisLock,
}

impl Compat {
    /// Returns the value of the option `compat`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RedisPy => "redis-py",
            Self::PythonRedisLock => "python-redis-lock",
        }
    }
}

/// The settings of a [`RedisBackend`](crate::RedisBackend), which connects at its first operation.
///
/// ```
/// use lock_redis::{Address, RedisBackend, RedisConfig};
///
/// let config = RedisConfig::standalone(Address::tcp("localhost", 6379))
///     .login("locks", "secret")
///     .database(2);
/// let backend = RedisBackend::new(config)?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub(crate) topology: Topology,
    pub(crate) tls: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) sentinel_user: Option<String>,
    pub(crate) sentinel_password: Option<Secret>,
    pub(crate) database: i64,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) compat: Option<Compat>,
    pub(crate) key_prefix: Option<String>,
    pub(crate) replicas: u32,
}

impl RedisConfig {
    /// Creates settings for the servers in `topology`, without TLS or login.
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            database: 0,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            compat: None,
            key_prefix: None,
            replicas: 0,
        }
    }

    /// Creates settings for one server, without TLS or login.
    pub fn standalone(address: Address) -> Self {
        Self::new(Topology::Standalone(address))
    }

    /// Encrypts the connection.
    ///
    /// The server's certificate must be for its host name, from an authority that the system
    /// trusts.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Trusts the authorities in this PEM file instead of those of the system. Turns TLS on.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self.tls()
    }

    /// Sends the client certificate in the PEM file `cert`, with the key in the PEM file `key`.
    /// Turns TLS on.
    #[must_use]
    pub fn client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert_file = Some(cert.into());
        self.key_file = Some(key.into());
        self.tls()
    }

    /// Logs in as an ACL user.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self.password(password)
    }

    /// Logs in with a password only (`requirepass`).
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret::new(password));
        self
    }

    /// Logs in to the sentinels, whose users are separate from those of the server.
    #[must_use]
    pub fn sentinel_login(mut self, user: Option<String>, password: impl Into<String>) -> Self {
        self.sentinel_user = user;
        self.sentinel_password = Some(Secret::new(password));
        self
    }

    /// Selects a database by number. A cluster has only database 0.
    #[must_use]
    pub fn database(mut self, number: u32) -> Self {
        self.database = number.into();
        self
    }

    /// Sets the longest time to connect and log in. Default 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the longest time to wait for a reply. Default 1 s.
    ///
    /// A connection with an older outstanding reply is replaced.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Uses the keys of another client, so that its locks and onelock's exclude each other.
    #[must_use]
    pub fn compat(mut self, compat: Compat) -> Self {
        self.compat = Some(compat);
        self
    }

    /// Sets the prefix of the name in the key. Default `onelock:`, or the other client's prefix in
    /// a compat mode.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = Some(prefix.into());
        self
    }

    /// Requires this many replicas to confirm each acquire and renewal (`WAIT`).
    ///
    /// A failover to one of these replicas keeps the lock.
    #[must_use]
    pub fn replicas(mut self, number: u32) -> Self {
        self.replicas = number;
        self
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |message: &str| Err(Error::new(ErrorKind::Config, message).with_operation(Operation::Open));
        let cluster = matches!(self.topology, Topology::Cluster(_));
        if self.key_prefix.as_ref().is_some_and(|prefix| prefix.contains(['{', '}'])) {
            return wrong(
                "key_prefix must not contain braces: the braces around the name keep all keys of a lock in one slot",
            );
        }
        if cluster && self.database != 0 {
            return wrong("a Redis cluster has only database 0; remove the number from the configuration");
        }
        if cluster && self.compat == Some(Compat::PythonRedisLock) {
            return wrong("python-redis-lock does not work on a cluster: its two keys are in different slots");
        }
        if self.replicas > 0 && matches!(self.topology, Topology::Quorum(_)) {
            return wrong("the servers of a quorum are independent and have no replicas; remove the option replicas");
        }
        if matches!(&self.topology, Topology::Quorum(nodes) if nodes.len() < 3) {
            return wrong("a quorum needs at least three independent servers: with two, no server may fail");
        }
        if matches!(self.topology, Topology::Quorum(_)) && self.compat.is_some() {
            return wrong("compat does not work on a quorum, because the other client uses a single server");
        }
        for (option, time) in [("timeout", self.timeout), ("connect_timeout", self.connect_timeout)] {
            if time.is_zero() || time > LONGEST_TIMEOUT {
                return wrong(&format!("{option}={time:?} must be longer than 0 and at most one hour"));
            }
        }
        Ok(())
    }
}

impl RedisConfig {
    /// Returns what chooses the keys of the locks, as a config string without secrets: the name of
    /// the store in logs and errors.
    pub(crate) fn name(&self) -> String {
        self.chosen_keys().expose()
    }

    fn chosen_keys(&self) -> ConfigString {
        let plain = if self.tls { "rediss" } else { "redis" };
        let database = (self.database != 0).then(|| self.database.to_string());
        let path = database.as_ref().map(|number| format!("/{number}")).unwrap_or_default();
        let (place, option) = match &self.topology {
            Topology::Standalone(Address::Unix(socket)) => {
                (ConfigString::of("redis+unix", [], socket.to_string_lossy()), database)
            }
            Topology::Standalone(address) => (ConfigString::of(plain, address.host(), path), None),
            Topology::Sentinel { sentinels, service } => {
                let sentinels = sentinels.iter().filter_map(Address::host);
                (ConfigString::of(format!("{plain}+sentinel"), sentinels, format!("/{service}")), database)
            }
            Topology::Cluster(nodes) => {
                (ConfigString::of(format!("{plain}+cluster"), nodes.iter().filter_map(Address::host), path), None)
            }
            Topology::Quorum(nodes) => {
                (ConfigString::of(format!("{plain}+quorum"), nodes.iter().filter_map(Address::host), path), None)
            }
        };
        let prefix = self.key_prefix.as_deref().filter(|prefix| *prefix != default_prefix(self.compat));
        place
            .with_setting("db", option)
            .with_setting("compat", self.compat.map(Compat::as_str))
            .with_setting("key_prefix", prefix)
    }
}

impl fmt::Display for RedisConfig {
    /// Formats all settings except logins as a config string, which parses to the same settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::new(self.topology.clone());
        let file =
            |path: &Option<PathBuf>| path.as_ref().filter(|_| self.tls).map(|path| path.to_string_lossy().into_owned());
        let printed = self
            .chosen_keys()
            .with_setting("ca", file(&self.ca_file))
            .with_setting("cert", file(&self.cert_file))
            .with_setting("key", file(&self.key_file))
            .with_duration("connect_timeout", self.connect_timeout, default.connect_timeout)
            .with_duration("timeout", self.timeout, default.timeout)
            .with_setting("replicas", (self.replicas > 0).then(|| self.replicas.to_string()));
        f.write_str(&printed.expose())
    }
}
