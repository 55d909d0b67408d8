//! Which Redis, and how to use it.

use std::{fmt, path::PathBuf, time::Duration};

use lock_core::{
    Error, ErrorKind, Operation,
    config::{Host, Secret},
};

/// No lease waits longer for an answer, and all sums with it are times.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where a Redis server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address, and a port.
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
    /// A host and its port; 6379 is usual, 26379 for sentinels.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
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

/// How the servers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// One server.
    Standalone(Address),
    /// The primary that sentinels name.
    Sentinel {
        /// The sentinels to ask.
        sentinels: Vec<Address>,
        /// The name under which they watch the primary, often `mymaster`.
        service: String,
    },
    /// A Redis Cluster, found through any of its nodes.
    Cluster(Vec<Address>),
    /// Independent servers, of which a majority decides (the Redlock algorithm).
    Quorum(Vec<Address>),
}

/// Another client whose locks ours exclude, and whose locks exclude ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compat {
    /// `Lock` of the Python package `redis`, and every client that sets the name itself as the key: redsync, redislock, node-redlock.
    RedisPy,
    /// The Python package `python-redis-lock`.
    PythonRedisLock,
}

/// Which Redis to use for locks, and how. Nothing is connected before the first operation.
///
/// ```
/// use lock_redis::{Address, RedisBackend, RedisConfig};
///
/// let config = RedisConfig::standalone(Address::tcp("localhost", 6379)).login("locks", "secret").database(2);
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
    /// The servers in `topology`, without TLS and login.
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

    /// One server.
    pub fn standalone(address: Address) -> Self {
        Self::new(Topology::Standalone(address))
    }

    /// Encrypts the connection; the server's certificate must be for its host name and from an authority that the system trusts.
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

    /// Shows the server the certificate in the PEM file `cert`, whose key is in the PEM file `key`. Turns TLS on.
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

    /// Logs in to the sentinels, which have users of their own.
    #[must_use]
    pub fn sentinel_login(mut self, user: Option<String>, password: impl Into<String>) -> Self {
        self.sentinel_user = user;
        self.sentinel_password = Some(Secret::new(password));
        self
    }

    /// Selects a database by number; a cluster has only 0.
    #[must_use]
    pub fn database(mut self, number: u32) -> Self {
        self.database = number.into();
        self
    }

    /// Longest time to connect and log in. Default 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest time for the answer to one request. Default 1 s. A connection that owes an answer for longer is replaced.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Uses the keys of another client, so that its locks and ours exclude each other.
    #[must_use]
    pub fn compat(mut self, compat: Compat) -> Self {
        self.compat = Some(compat);
        self
    }

    /// What stands before the name in the key. Default `onelock:`, and what the other client uses in a compat mode.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = Some(prefix.into());
        self
    }

    /// Grants and renews only what this many replicas have confirmed (`WAIT`), so that a failover to one of them finds the lock.
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

/// A config string without secrets: what logs and errors call this store.
impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = if self.tls { "rediss" } else { "redis" };
        let list = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
        match &self.topology {
            Topology::Standalone(Address::Unix(path)) => write!(f, "redis+unix://{}", path.display())?,
            Topology::Standalone(address) => write!(f, "{plain}://{address}")?,
            Topology::Sentinel { sentinels, service } => {
                write!(f, "{plain}+sentinel://{}/{service}", list(sentinels))?;
            }
            Topology::Cluster(nodes) => write!(f, "{plain}+cluster://{}", list(nodes))?,
            Topology::Quorum(nodes) => write!(f, "{plain}+quorum://{}", list(nodes))?,
        }
        match (&self.topology, self.database) {
            (_, 0) => Ok(()),
            (Topology::Standalone(Address::Tcp { .. }) | Topology::Quorum(_), number) => write!(f, "/{number}"),
            (_, number) => write!(f, "?db={number}"),
        }
    }
}
