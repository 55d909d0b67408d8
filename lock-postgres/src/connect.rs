//! Opens connections to the servers of a store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use lock_core::{Error, config::Host};
use tokio::sync::Notify;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket,
    config::{SslMode as PgSslMode, TargetSessionAttrs},
    error::SqlState,
    tls::TlsStream,
};

use crate::{
    config::{DEFAULT_PORT, ServerConfig, SslMode},
    environment::{password_from_file, ssl_mode},
    error::{Phase, connect_timed_out, translate},
    tls::Tls,
};

/// Receives what the server sends without a request.
pub(crate) trait Events: Send + Sync + 'static {
    /// A notification on `channel` arrived.
    fn notified(&self, channel: &str);
    /// The connection ended.
    fn ended(&self);
}

/// The events of a connection that listens to nothing.
pub(crate) struct NoEvents;

impl Events for NoEvents {
    fn notified(&self, _: &str) {}
    fn ended(&self) {}
}

/// Opens connections with the settings of one store.
pub(crate) struct Connector {
    server: ServerConfig,
    tls: Tls,
    connect_timeout: Duration,
    /// The index of the host that the next attempt begins with. A silent host is skipped so, when
    /// the caller gives up during an attempt.
    next: AtomicUsize,
}

/// A connection, and the means to control the task that serves it.
pub(crate) struct Connected {
    pub(crate) client: Client,
    /// How many warnings the server has sent.
    pub(crate) warnings: Arc<AtomicU64>,
    /// Makes the task end the connection, and the server's work for it.
    pub(crate) abandon: Arc<Notify>,
}

impl Connector {
    pub(crate) fn new(server: ServerConfig, connect_timeout: Duration) -> Result<Self, Error> {
        let tls = Tls::new(&server)?;
        Ok(Self { server, tls, connect_timeout, next: AtomicUsize::new(0) })
    }

    /// Returns how long [`connect`](Self::connect) takes at most: all servers may be silent.
    pub(crate) fn longest(&self) -> Duration {
        self.connect_timeout.saturating_mul(u32::try_from(self.server.hosts.len()).unwrap_or(u32::MAX))
    }

    /// Tries each server once, until one accepts writes.
    pub(crate) async fn connect(&self, events: Arc<dyn Events>) -> Result<Connected, Error> {
        let hosts = &self.server.hosts;
        let mut last = None;
        for _ in hosts {
            // Advanced before connecting, because the caller may give up meanwhile.
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let host = &hosts[turn % hosts.len()];
            let config = self.config(host);
            match tokio::time::timeout(self.connect_timeout, config.connect(self.tls.clone())).await {
                Ok(Ok((client, connection))) => {
                    self.next.store(turn, Ordering::Relaxed);
                    return Ok(self.serve(client, connection, events));
                }
                Ok(Err(error)) => last = Some(translate(error, Phase::Connect)),
                Err(_) => last = Some(connect_timed_out()),
            }
        }
        Err(last.expect("there is a host"))
    }

    fn config(&self, host: &Host) -> Config {
        let server = &self.server;
        let mut config = Config::new();
        config
            .host(&host.name)
            .port(host.port.unwrap_or(DEFAULT_PORT))
            .connect_timeout(self.connect_timeout)
            .application_name("onelock")
            .ssl_mode(match ssl_mode(server) {
                SslMode::Disable => PgSslMode::Disable,
                SslMode::Prefer => PgSslMode::Prefer,
                SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => PgSslMode::Require,
            });
        if let Some(user) = &server.user {
            config.user(user);
        }
        if let Some(database) = &server.database {
            config.dbname(database);
        }
        let password = server.password.clone().or_else(|| password_from_file(server, host));
        if let Some(password) = password {
            config.password(password.expose());
        }
        if host.name.starts_with('/') {
            // A socket never has TLS.
            config.ssl_mode(PgSslMode::Disable);
        }
        if server.hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }

    /// Starts the task that reads and writes, which tokio-postgres leaves to its user. It ends with
    /// its connection.
    fn serve<T>(&self, client: Client, connection: Connection<Socket, T>, events: Arc<dyn Events>) -> Connected
    where
        T: TlsStream + Unpin + Send + 'static,
    {
        let (warnings, abandon) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let served = serve(connection, Arc::clone(&warnings), Arc::clone(&events));
        let (cancel, tls, limit, told) =
            (client.cancel_token(), self.tls.clone(), self.connect_timeout, Arc::clone(&abandon));
        // Without a task the connection would be polled only during statements. Then a waiter gets
        // no notification, and the end of the connection goes unnoticed.
        tokio::spawn(async move {
            let abandoned = tokio::select! {
                () = served => false,
                () = told.notified() => true,
            };
            events.ended();
            if abandoned {
                // A statement may wait for a synchronous standby, without a limit, and keep one of
                // the server's few connections.
                let _ = tokio::time::timeout(limit, cancel.cancel_query(tls)).await;
            }
        });
        Connected { client, warnings, abandon }
    }
}

async fn serve<T>(mut connection: Connection<Socket, T>, warnings: Arc<AtomicU64>, events: Arc<dyn Events>)
where
    T: TlsStream + Unpin + Send + 'static,
{
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    while let Some(Ok(message)) = messages.next().await {
        match message {
            AsyncMessage::Notification(notification) => events.notified(notification.channel()),
            AsyncMessage::Notice(notice) if *notice.code() == SqlState::WARNING => {
                // Counted before the reply that it belongs to is passed on.
                warnings.fetch_add(1, Ordering::Release);
            }
            _ => {}
        }
    }
}
