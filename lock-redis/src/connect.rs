//! Opens connections to the servers of a topology.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{join_all, select_ok},
};
use lock_core::{Error, ErrorKind, Operation, config::Secret};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};

use crate::{
    config::{Address, RedisConfig},
    error::{Phase, translate},
    refusal::refusal,
};

/// An open connection; clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(crate) async fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Node(node) => command.query_async(node).await,
            Self::Cluster(cluster) => command.query_async(cluster).await,
        }
    }

    /// Sends two commands as one pipeline, so that one node runs them without a gap.
    /// On a cluster that node is the primary that owns `key`, also after a redirection.
    /// The second command may fail after the first has succeeded.
    pub(crate) async fn query_both(&mut self, a: &Cmd, b: &Cmd, key: &str) -> RedisResult<(Value, RedisResult<Value>)> {
        let mut both = redis::pipe();
        both.add_command(a.clone()).add_command(b.clone());
        let answers = match self {
            Self::Node(node) => node.req_packed_commands(&both, 0, 2).await?,
            Self::Cluster(cluster) => {
                let primary = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                cluster.route_pipeline(both, 0, 2, primary).await?
            }
        };
        let mut answers = answers.into_iter().map(Value::extract_error);
        match (answers.next(), answers.next()) {
            (Some(a), Some(b)) => Ok((a?, b)),
            _ => Err((redis::ErrorKind::UnexpectedReturnType, "two commands, but not two answers").into()),
        }
    }

    /// Asks one node of a cluster.
    pub(crate) async fn query_at(&mut self, command: &Cmd, (host, port): &(String, u16)) -> RedisResult<Value> {
        match self {
            Self::Node(node) => command.query_async(node).await,
            Self::Cluster(cluster) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                cluster.route_command(command.clone(), RoutingInfo::SingleNode(node)).await?.extract_error()
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::Node(node) => node.subscribe(channel).await,
            Self::Cluster(cluster) => cluster.subscribe(channel).await,
        }
    }
}

/// Opens connections with the settings of one store.
pub(crate) struct Connector {
    target: Target,
    settings: AsyncConnectionConfig,
}

enum Target {
    Node(Box<Client>),
    Sentinel(Box<Sentinels>),
    Cluster {
        seeds: Vec<ConnectionInfo>,
        certificates: Option<TlsCertificates>,
        connect_timeout: Duration,
        timeout: Duration,
    },
}

/// What a client of the sentinels is made of. Each attempt makes its own, because a client serves
/// one caller at a time, and the program may stop driving that one.
///
/// redis-rs waits for the first sentinel of the list. A caller may give up before redis-rs skips a
/// silent one, so each attempt begins with another sentinel.
struct Sentinels {
    config: RedisConfig,
    addresses: Vec<ConnectionAddr>,
    certificates: Option<TlsCertificates>,
    /// Which sentinel the next attempt begins with.
    next: AtomicUsize,
    /// The same sentinels, for a question that their clients do not answer.
    infos: Vec<ConnectionInfo>,
    service: String,
}

impl Sentinels {
    fn client(&self, turn: usize) -> RedisResult<SentinelClient> {
        let mut addresses = self.addresses.clone();
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        sentinel_client(&self.config, addresses, &self.service, self.certificates.as_ref())
    }

    /// Returns the address of the primary, even if it takes no connection. The clients connect to
    /// it before they name it.
    async fn primary(&self) -> RedisResult<ConnectionAddr> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let ask = async |info: &ConnectionInfo| {
            let mut sentinel = Client::open(info.clone())?.get_multiplexed_async_connection().await?;
            let (host, port): (String, u16) = question.query_async(&mut sentinel).await?;
            Ok(ConnectionAddr::Tcp(host, port))
        };
        let asked = self.infos.iter().map(|info| ask(info).boxed());
        select_ok(asked).await.map(|(primary, _)| primary)
    }
}

impl Connector {
    /// Creates a connector to the single server at `address`.
    pub(crate) fn node(config: &RedisConfig, address: &Address) -> Result<Self, Error> {
        let certificates = certificates(config)?;
        let info = connection_info(config, address)?;
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        let client = client.map_err(|error| opening(translate(error, Phase::Connect)))?;
        Ok(Self { target: Target::Node(Box::new(client)), settings: settings(config) })
    }

    /// Creates a connector to the primary, for which each connection asks the sentinels.
    pub(crate) fn sentinel(config: &RedisConfig, sentinels: &[Address], service: &str) -> Result<Self, Error> {
        let wrong = |error| opening(translate(error, Phase::Connect));
        let certificates = certificates(config)?;
        let login = login(config.sentinel_user.as_deref(), config.sentinel_password.as_ref());
        let info = |address| {
            let info = connection_addr(config, address).into_connection_info().map_err(wrong)?;
            Ok(info.set_redis_settings(login.clone()))
        };
        let infos = if config.tls { Vec::new() } else { sentinels.iter().map(info).collect::<Result<_, Error>>()? };
        let sentinels = Sentinels {
            config: config.clone(),
            addresses: sentinels.iter().map(|s| connection_addr(config, s)).collect(),
            certificates,
            next: AtomicUsize::new(0),
            infos,
            service: service.into(),
        };
        sentinels.client(0).map_err(wrong)?;
        Ok(Self { target: Target::Sentinel(Box::new(sentinels)), settings: settings(config) })
    }

    /// Creates a connector to all nodes of the cluster that `seeds` belong to.
    pub(crate) fn cluster(config: &RedisConfig, seeds: &[Address]) -> Result<Self, Error> {
        let seeds = seeds.iter().map(|s| connection_info(config, s)).collect::<Result<Vec<_>, _>>()?;
        let target = Target::Cluster {
            seeds,
            certificates: certificates(config)?,
            connect_timeout: config.connect_timeout,
            timeout: config.timeout,
        };
        Ok(Self { target, settings: settings(config) })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster { .. })
    }

    /// Makes one attempt to connect. `push` receives the server's push messages and the end of the
    /// connection.
    pub(crate) async fn connect(
        &self,
        push: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> RedisResult<Connection> {
        match self.open(push).await {
            Err(error) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                Err(self.refusal().await.unwrap_or(error))
            }
            opened => opened,
        }
    }

    /// Returns why the server closes new connections, if it says so.
    async fn refusal(&self) -> Option<RedisError> {
        match &self.target {
            Target::Node(client) => refusal(client.get_connection_info().addr()).await,
            // With TLS the primary would say nothing.
            Target::Sentinel(sentinels) if sentinels.infos.is_empty() => None,
            Target::Sentinel(sentinels) => {
                let primary = sentinels.primary().await.ok()?;
                refusal(&primary).await
            }
            Target::Cluster { seeds, .. } => {
                join_all(seeds.iter().map(|seed| refusal(seed.addr()))).await.into_iter().flatten().next()
            }
        }
    }

    async fn open(&self, push: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static) -> RedisResult<Connection> {
        let settings = || self.settings.clone();
        match &self.target {
            Target::Node(client) => {
                let settings = settings().set_push_sender(push);
                client.get_multiplexed_async_connection_with_config(&settings).await.map(Connection::Node)
            }
            Target::Sentinel(sentinels) => {
                let settings = settings().set_push_sender(push);
                // Advanced before connecting, because the caller may give up meanwhile.
                let turn = sentinels.next.fetch_add(1, Ordering::Relaxed);
                let connection = sentinels.client(turn)?.get_async_connection_with_config(&settings).await?;
                sentinels.next.store(turn, Ordering::Relaxed);
                Ok(Connection::Node(connection))
            }
            Target::Cluster { seeds, certificates, connect_timeout, timeout } => {
                let mut builder = ClusterClientBuilder::new(seeds.iter().cloned())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(*connect_timeout)
                    .response_timeout(*timeout)
                    // No request is repeated after its timeout.
                    .overall_response_timeout(Some(*timeout))
                    // A redirection and a reconnect take one retry each. The core decides on
                    // further ones.
                    .retries(3)
                    .min_retry_wait(10)
                    .max_retry_wait(100)
                    .tcp_settings(tcp_settings())
                    .push_sender(push);
                if let Some(certificates) = certificates {
                    builder = builder.tls(TlsMode::Secure).certs(certificates.clone());
                }
                builder.build()?.get_async_connection().await.map(Connection::Cluster)
            }
        }
    }
}

fn sentinel_client(
    config: &RedisConfig,
    sentinels: Vec<ConnectionAddr>,
    service: &str,
    certificates: Option<&TlsCertificates>,
) -> RedisResult<SentinelClient> {
    let mut builder = SentinelClientBuilder::new(sentinels, service, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(config.database)
        .set_client_to_redis_tcp_settings(tcp_settings())
        .set_client_to_sentinel_tcp_settings(tcp_settings());
    if let Some(user) = &config.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &config.password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    if let Some(user) = &config.sentinel_user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = &config.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates.clone());
    }
    builder.build()
}

fn settings(config: &RedisConfig) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.timeout))
        .set_pipeline_buffer_size(1024)
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn connection_addr(config: &RedisConfig, address: &Address) -> ConnectionAddr {
    match address {
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Address::Tcp { host, port } if config.tls => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        Address::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
    }
}

fn login(user: Option<&str>, password: Option<&Secret>) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default();
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose());
    }
    login
}

fn connection_info(config: &RedisConfig, address: &Address) -> Result<ConnectionInfo, Error> {
    let login = login(config.user.as_deref(), config.password.as_ref())
        .set_db(config.database)
        // Wake-ups come as push messages on the same connection.
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("lock-redis", env!("CARGO_PKG_VERSION"));
    let info = connection_addr(config, address)
        .into_connection_info()
        .map_err(|error| opening(translate(error, Phase::Connect)))?;
    Ok(info.set_redis_settings(login).set_tcp_settings(tcp_settings()))
}

/// Reads the certificates, if TLS is on.
fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, Error> {
    if !config.tls {
        return Ok(None);
    }
    // rustls needs one crypto provider per process. A provider that the application installed
    // stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let root_cert = config.ca_file.as_deref().map(|path| read("ca", path)).transpose()?;
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read("cert", cert)?, client_key: read("key", key)? })
        }
        (None, None) => None,
        _ => return Err(opening(Error::new(ErrorKind::Config, "a client certificate needs both cert and key"))),
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| {
        let message = format!("cannot read {}, the file of option {option}", path.display());
        opening(Error::new(ErrorKind::Config, message).with_source(error))
    })
}

fn opening(error: Error) -> Error {
    error.with_operation(Operation::Open)
}
