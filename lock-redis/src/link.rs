//! One connection that is opened when it is needed, and replaced when it has died.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use lock_core::Error;
use redis::{Cmd, PushKind, RedisError, ServerErrorKind, Value};

use crate::{
    connect::{Connection, Connector},
    error::{Phase, translate},
    script::Call,
    wake::Wakers,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to a node, to a primary found by sentinels, or to a cluster.
pub(crate) struct Link {
    connector: Connector,
    connect_timeout: Duration,
    timeout: Duration,
    /// The connection in use; `None` before the first and after a dead one.
    live: Mutex<Option<Arc<Live>>>,
    /// Held by the one that connects. All others wait for its result, instead of opening a connection each.
    gate: tokio::sync::Mutex<Option<Failure>>,
    pub(crate) wakers: Arc<Wakers>,
}

struct Live {
    connection: Connection,
    /// Set when the connection is known to have ended.
    ended: Arc<AtomicBool>,
    /// Whether this connection receives wake-ups.
    subscribed: tokio::sync::OnceCell<()>,
    unanswered: Mutex<Unanswered>,
}

/// How long the server owes an answer. Needed because the caller may give up before the timeout of the connection does, and a
/// connection whose packets vanish would then be used for ever.
#[derive(Default)]
struct Unanswered {
    requests: usize,
    since: Option<Instant>,
}

struct Failure {
    error: RedisError,
    at: Instant,
    pause: Duration,
}

impl Link {
    pub(crate) fn new(connector: Connector, connect_timeout: Duration, timeout: Duration) -> Self {
        Self {
            connector,
            connect_timeout,
            timeout,
            live: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            wakers: Arc::new(Wakers::new()),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.connector.is_cluster()
    }

    /// Runs a script by its digest, and by its text when the server has not seen it since it started.
    pub(crate) async fn run(&self, call: &Call<'_>) -> Result<Value, Error> {
        let live = self.live().await?;
        match self.send(&live, &call.command).await {
            Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(&live, &call.with_text()).await
            }
            result => result,
        }
        .map_err(|error| translate(error, Phase::Request))
    }

    /// Runs a script and, right behind it on the same connection, a command.
    pub(crate) async fn run_then(&self, call: &Call<'_>, then: &Cmd) -> Result<(Value, Value), Error> {
        let live = self.live().await?;
        let translate = |error| translate(error, Phase::Request);
        let unknown = redis::ErrorKind::Server(ServerErrorKind::NoScript);
        // Polled in this order, so sent in this order.
        let (first, second) = match tokio::join!(self.send(&live, &call.command), self.send(&live, then)) {
            (Err(error), _) if error.kind() == unknown => {
                let whole = call.with_text();
                tokio::join!(self.send(&live, &whole), self.send(&live, then))
            }
            answers => answers,
        };
        Ok((first.map_err(translate)?, second.map_err(translate)?))
    }

    /// Runs one command, on the given node of a cluster or on any.
    pub(crate) async fn command(&self, command: &Cmd, node: Option<&(String, u16)>) -> Result<Value, Error> {
        let live = self.live().await?;
        let mut connection = live.connection.clone();
        let request = Request::new(&live);
        let result = match node {
            Some(node) => connection.query_at(command, node).await,
            None => connection.query(command).await,
        };
        self.settle(&live, request, &result);
        result.map_err(|error| translate(error, Phase::Request))
    }

    /// A connection that is not shared.
    pub(crate) async fn another(&self) -> Result<Connection, Error> {
        self.connector.connect(|_| Ok(())).await.map_err(|error| translate(error, Phase::Connect))
    }

    /// Makes sure that this connection, and every later one while somebody waits, receives wake-ups.
    pub(crate) async fn subscribe(&self) -> Result<(), Error> {
        let live = self.live().await?;
        self.subscribe_on(&live).await.map_err(|error| translate(error, Phase::Request))
    }

    async fn subscribe_on(&self, live: &Live) -> Result<(), RedisError> {
        let mut connection = live.connection.clone();
        live.subscribed.get_or_try_init(|| connection.subscribe(self.wakers.channel())).await.map(|_| ())
    }

    /// Hands a call to the connection without waiting for anything; for [`Drop`].
    pub(crate) fn send_and_forget(&self, call: &Call<'_>) {
        let Some(live) = self.usable() else { return };
        // The timer of the request needs a runtime. Without one there is nobody to write to the socket either.
        if tokio::runtime::Handle::try_current().is_ok() {
            let mut connection = live.connection.clone();
            // Nobody will read a NOSCRIPT, so the text goes along.
            let mut command = call.with_text();
            // redis-rs does not send what nobody waits for, unless told that this is meant.
            command.set_no_response(true);
            let _ = connection.query(&command).now_or_never();
        }
    }

    async fn send(&self, live: &Arc<Live>, command: &Cmd) -> Result<Value, RedisError> {
        let mut connection = live.connection.clone();
        let request = Request::new(live);
        let result = connection.query(command).await;
        self.settle(live, request, &result);
        result
    }

    fn settle(&self, live: &Arc<Live>, request: Request<'_>, result: &Result<Value, RedisError>) {
        match result {
            Err(error) if self.is_dead(error) => self.discard(live),
            _ => request.answered(),
        }
    }

    /// Whether `error` ends the connection. A cluster connection mends itself, node by node.
    fn is_dead(&self, error: &RedisError) -> bool {
        if self.connector.is_cluster() {
            return error.kind() == redis::ErrorKind::ClusterConnectionNotFound || error.is_connection_dropped();
        }
        // READONLY: the primary was demoted, and sentinels know its successor.
        error.is_io_error()
            || error.is_unrecoverable_error()
            || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
    }

    fn discard(&self, dead: &Arc<Live>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(live, dead)) {
            *live = None;
            drop(live);
            // Wake-ups may have been lost with the connection: let everybody who waits look.
            self.wakers.wake_all();
        }
    }

    fn usable(&self) -> Option<Arc<Live>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let owes = live.unanswered.lock().unwrap_or_else(PoisonError::into_inner).since;
        let silent = !self.connector.is_cluster() && owes.is_some_and(|since| since.elapsed() >= self.timeout);
        if live.ended.load(Ordering::Acquire) || silent {
            self.discard(&live);
            return None;
        }
        Some(live)
    }

    async fn live(&self) -> Result<Arc<Live>, Error> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let mut failure = self.gate.lock().await;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let mut pause = FIRST_PAUSE;
        if let Some(last) = &*failure {
            if last.at.elapsed() < last.pause {
                return Err(translate(last.error.clone(), Phase::Connect));
            }
            pause = (last.pause * 2).min(LONGEST_PAUSE);
        }
        // Until it succeeds this counts as failed, so that a caller who gives up does not make the next one start over at once.
        match self.connect().await {
            Ok(live) => {
                *failure = None;
                *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&live));
                Ok(live)
            }
            Err(error) => {
                *failure = Some(Failure { error: error.clone(), at: Instant::now(), pause });
                Err(translate(error, Phase::Connect))
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Live>, RedisError> {
        let ended = Arc::new(AtomicBool::new(false));
        let (wakers, flag, is_cluster) = (Arc::clone(&self.wakers), Arc::clone(&ended), self.connector.is_cluster());
        let push = move |info: redis::PushInfo| {
            match info.kind {
                // Of a cluster this is one node, and the others go on.
                PushKind::Disconnection => {
                    flag.store(!is_cluster, Ordering::Release);
                    wakers.wake_all();
                }
                PushKind::Message => wakers.received(&info.data),
                _ => {}
            }
            Ok(())
        };
        let connecting = async {
            let connection = self.connector.connect(push).await?;
            let live =
                Live { connection, ended, subscribed: tokio::sync::OnceCell::new(), unanswered: Mutex::default() };
            if self.wakers.anybody_waits() {
                self.subscribe_on(&live).await?;
            }
            Ok(Arc::new(live))
        };
        // redis-rs limits the parts; asking sentinels or a whole cluster has many.
        match tokio::time::timeout(self.connect_timeout * 2, connecting).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connected = self.live.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        f.debug_struct("Link").field("connected", &connected).finish_non_exhaustive()
    }
}

/// Counts a request as unanswered until it is answered; dropped without an answer, the time it was sent stays noted.
struct Request<'a> {
    live: &'a Live,
}

impl<'a> Request<'a> {
    fn new(live: &'a Live) -> Self {
        let mut unanswered = live.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.requests += 1;
        unanswered.since.get_or_insert_with(Instant::now);
        drop(unanswered);
        Self { live }
    }

    fn answered(self) {
        let mut unanswered = self.live.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers come in order, so whatever is still open was sent after this one.
        unanswered.since = (unanswered.requests > 1).then(Instant::now);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.live.unanswered.lock().unwrap_or_else(PoisonError::into_inner).requests -= 1;
    }
}
