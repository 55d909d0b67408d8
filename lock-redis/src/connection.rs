//! A connection that is opened on first use and replaced after it fails.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use lock_core::{Error, backend::Turns};
use redis::{Cmd, PushKind, RedisError, RedisResult, ServerErrorKind, Value, cluster_routing::Slot};

use crate::{
    advice::says,
    connect::{Connection, Connector},
    error::{Phase, translate},
    outstanding_replies::{OutstandingReplies, RequestEnd},
    script::Call,
    wake::Wakers,
};

const UNKNOWN_SCRIPT: redis::ErrorKind = redis::ErrorKind::Server(ServerErrorKind::NoScript);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Holds the one connection to a node, to a primary found by sentinels, or to a cluster.
pub(crate) struct ConnectionSlot {
    connector: Connector,
    connect_timeout: Duration,
    timeout: Duration,
    /// How many connections have ended, of all nodes.
    pub(crate) ended_connections: Arc<AtomicU64>,
    /// `None` before the first connection and after a dead one.
    open: Mutex<Option<Arc<OpenConnection>>>,
    /// The turns of callers that connect, with the last failure. Other callers wait for that result
    /// instead of opening a connection each.
    turns: Turns<Option<ConnectFailure>>,
    pub(crate) wakers: Arc<Wakers>,
}

/// The connection in use and its state.
struct OpenConnection {
    connection: Connection,
    born: Instant,
    /// Set when the connection is known to have ended.
    ended: Arc<AtomicBool>,
    /// Whether this connection receives wake-ups.
    subscribed: AtomicBool,
    outstanding: OutstandingReplies,
    /// Unattended requests. A cluster connection sends no request whose future was dropped.
    forgotten: Mutex<Vec<BoxFuture<'static, RedisResult<Value>>>>,
}

struct ConnectFailure {
    error: RedisError,
    at: Instant,
    pause: Duration,
}

/// An attempt to connect. If its caller gives up and drops it, the attempt counts as failed, so
/// that the next caller does not wait as long.
struct ConnectAttempt<'a> {
    failure: &'a mut Option<ConnectFailure>,
    since: Instant,
    /// The pause before the next attempt; zero once this attempt has ended by itself.
    pause: Duration,
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        // A caller that gives up at once says nothing about the server.
        if !self.pause.is_zero() && self.since.elapsed() >= FIRST_PAUSE {
            let error = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
            *self.failure = Some(ConnectFailure { error, at: Instant::now(), pause: self.pause });
        }
    }
}

impl ConnectionSlot {
    pub(crate) fn new(connector: Connector, connect_timeout: Duration, timeout: Duration) -> Self {
        Self {
            connector,
            connect_timeout,
            timeout,
            ended_connections: Arc::default(),
            open: Mutex::default(),
            turns: Turns::new(connect_timeout * 2 + timeout / 2),
            wakers: Arc::new(Wakers::new()),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.connector.is_cluster()
    }

    /// Runs a script by its digest, or by its text if the server does not have the script.
    pub(crate) async fn run(&self, call: &Call<'_>) -> Result<Value, Error> {
        self.run_and_read(call, Ok).await
    }

    /// Like [`run`](Self::run). `read` may find an error in the reply.
    pub(crate) async fn run_and_read<T>(&self, call: &Call<'_>, read: fn(Value) -> RedisResult<T>) -> Result<T, Error> {
        let hash_slot = self.hash_slot(call);
        let open = self.current(hash_slot).await?;
        let send = async |script: &Cmd| {
            let mut connection = open.connection.clone();
            self.settle(&open, hash_slot, async { read(connection.query(script).await?) }).await
        };
        match send(&call.command).await {
            Err(error) if error.kind() == UNKNOWN_SCRIPT => send(&call.with_text()).await,
            result => result,
        }
        .map_err(|error| translate(error, self.asking()))
    }

    /// Runs a script and directly after it a command, on the same connection and node. The command
    /// may fail on its own.
    pub(crate) async fn run_then(&self, call: &Call<'_>, then: &Cmd) -> Result<(Value, Result<Value, Error>), Error> {
        let hash_slot = self.hash_slot(call);
        let open = self.current(hash_slot).await?;
        let send = async |script: &Cmd| {
            let mut connection = open.connection.clone();
            self.settle(&open, hash_slot, connection.query_both(script, then, call.key)).await
        };
        let translate = |error| translate(error, self.asking());
        match send(&call.command).await {
            Err(error) if error.kind() == UNKNOWN_SCRIPT => send(&call.with_text()).await,
            result => result,
        }
        .map(|(answer, then)| (answer, then.map_err(translate)))
        .map_err(translate)
    }

    /// Runs one command, on the given node of a cluster or on any.
    pub(crate) async fn command(&self, command: &Cmd, node: Option<&(String, u16)>) -> Result<Value, Error> {
        let open = self.current(None).await?;
        let mut connection = open.connection.clone();
        let answer = async {
            match node {
                Some(node) => connection.query_at(command, node).await,
                None => connection.query(command).await,
            }
        };
        self.settle(&open, None, answer).await.map_err(|error| translate(error, self.asking()))
    }

    /// Opens a connection that is not shared.
    pub(crate) async fn another(&self) -> Result<Connection, Error> {
        self.connector.connect(|_| Ok(())).await.map_err(|error| translate(error, Phase::Connect))
    }

    /// Subscribes this connection to wake-ups, and every later one while this process has waiters.
    pub(crate) async fn subscribe(&self) -> Result<(), Error> {
        let open = self.current(None).await?;
        self.subscribe_on(&open).await.map_err(|error| translate(error, Phase::Request))
    }

    async fn subscribe_on(&self, open: &OpenConnection) -> Result<(), RedisError> {
        if !open.subscribed.load(Ordering::Acquire) {
            // Each caller subscribes until one has the answer, as the program may not drive the
            // first one. Subscribing again changes nothing.
            open.connection.clone().subscribe(self.wakers.channel()).await?;
            open.subscribed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Hands a call to the connection without waiting, for use in [`Drop`]. Returns `false` if
    /// there is no usable connection.
    pub(crate) fn send_and_forget(&self, call: &Call<'_>) -> bool {
        let Some(open) = self.usable(self.hash_slot(call)) else { return false };
        // The timer of the request needs a runtime, and so does the task that writes to the socket.
        if tokio::runtime::Handle::try_current().is_err() {
            return false;
        }
        let mut connection = open.connection.clone();
        // No caller will read a NOSCRIPT, so the call includes the text.
        let mut command = call.with_text();
        // Without this flag redis-rs does not send a request whose future was dropped.
        command.set_no_response(true);
        let mut answer = async move { connection.query(&command).await }.boxed();
        if (&mut answer).now_or_never().is_none() && self.is_cluster() {
            let mut forgotten = open.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            forgotten.retain_mut(|answer| answer.now_or_never().is_none());
            forgotten.push(answer);
        }
        true
    }

    /// The hash slot of a call on a cluster, where it decides which node answers.
    fn hash_slot(&self, call: &Call<'_>) -> Option<Slot> {
        self.is_cluster().then(|| Slot::for_key(call.key))
    }

    fn asking(&self) -> Phase {
        if self.is_cluster() { Phase::RepeatedRequest } else { Phase::Request }
    }

    /// Awaits a reply and records what it says about the connection.
    async fn settle<T>(
        &self,
        open: &Arc<OpenConnection>,
        hash_slot: Option<Slot>,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let request = open.outstanding.begin(hash_slot);
        let result = answer.await;
        match &result {
            Err(error) if is_dead(error) => {
                request.end(RequestEnd::Dead);
                // The other nodes of a cluster still answer. The next request to this node
                // reconnects.
                if !self.is_cluster() {
                    self.discard(open);
                }
            }
            _ => request.end(RequestEnd::Answered),
        }
        result
    }

    fn discard(&self, dead: &Arc<OpenConnection>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, dead)) {
            *open = None;
            drop(open);
            // Wake-ups may have been lost with the connection, so all waiters check their locks.
            self.wakers.wake_all();
        }
    }

    /// Returns the connection if it is expected to answer for `hash_slot`.
    fn usable(&self, hash_slot: Option<Slot>) -> Option<Arc<OpenConnection>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let silent = open.outstanding.is_silent(hash_slot, self.timeout);
        if self.is_cluster() {
            // Only requests to the silent node replace the connection. The others keep using it.
            return (!silent || open.born.elapsed() < LONGEST_PAUSE).then_some(open);
        }
        if open.ended.load(Ordering::Acquire) || silent {
            self.discard(&open);
            return None;
        }
        Some(open)
    }

    async fn current(&self, hash_slot: Option<Slot>) -> Result<Arc<OpenConnection>, Error> {
        match self.usable(hash_slot) {
            Some(open) => Ok(open),
            // Boxed, to keep the future of every request small.
            None => Box::pin(self.reconnected(hash_slot)).await,
        }
    }

    /// Connects, unless another caller has connected in the meantime.
    async fn reconnected(&self, hash_slot: Option<Slot>) -> Result<Arc<OpenConnection>, Error> {
        let mut failure = self.turns.next().await;
        if let Some(open) = self.usable(hash_slot) {
            return Ok(open);
        }
        let mut pause = FIRST_PAUSE;
        if let Some(last) = &*failure {
            if last.at.elapsed() < last.pause {
                return Err(translate(last.error.clone(), Phase::Connect));
            }
            pause = (last.pause * 2).min(LONGEST_PAUSE);
        }
        let mut attempt = ConnectAttempt { failure: &mut failure, since: Instant::now(), pause };
        let connected = self.connect().await;
        attempt.pause = Duration::ZERO;
        drop(attempt);
        match connected {
            Ok(open) => {
                *failure = None;
                let old = self.open.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&open));
                if old.is_some() {
                    self.wakers.wake_all();
                }
                Ok(open)
            }
            Err(error) => {
                *failure = Some(ConnectFailure { error: error.clone(), at: Instant::now(), pause });
                Err(translate(error, Phase::Connect))
            }
        }
    }

    async fn connect(&self) -> Result<Arc<OpenConnection>, RedisError> {
        let ended = Arc::new(AtomicBool::new(false));
        let (wakers, flag, is_cluster) = (Arc::clone(&self.wakers), Arc::clone(&ended), self.connector.is_cluster());
        let count = Arc::clone(&self.ended_connections);
        let push = move |info: redis::PushInfo| {
            match info.kind {
                // On a cluster only one node has disconnected.
                PushKind::Disconnection => {
                    flag.store(!is_cluster, Ordering::Release);
                    count.fetch_add(1, Ordering::Release);
                    wakers.wake_all();
                }
                PushKind::Message => wakers.received(&info.data),
                _ => {}
            }
            Ok(())
        };
        let connecting = async {
            let connection = self.connector.connect(push).await?;
            let open = OpenConnection {
                connection,
                born: Instant::now(),
                ended,
                subscribed: AtomicBool::new(false),
                outstanding: OutstandingReplies::default(),
                forgotten: Mutex::default(),
            };
            if self.wakers.anybody_waits() {
                self.subscribe_on(&open).await?;
            }
            Ok(Arc::new(open))
        };
        // redis-rs limits each step, and connecting to sentinels or a cluster has many steps.
        match tokio::time::timeout(self.connect_timeout * 2, connecting).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connected = self.open.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        f.debug_struct("ConnectionSlot").field("connected", &connected).finish_non_exhaustive()
    }
}

/// Whether `error` says that a connection or a node will not answer again.
pub(crate) fn is_dead(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.kind() == redis::ErrorKind::ClusterConnectionNotFound
        // The primary was demoted, and sentinels or the cluster know its successor.
        || says(error, "READONLY")
}
