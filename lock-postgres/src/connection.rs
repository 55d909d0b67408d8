//! A connection that is opened on first use and replaced after it fails.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use lock_core::{Error, backend::Turns};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    connect::{Connected, Connector, Events},
    error::{Phase, connect_timed_out, ends_connection, no_answer, translate},
    named::NamedStatements,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// Holds the one connection, on which requests are pipelined.
pub(crate) struct ConnectionSlot {
    connector: Connector,
    timeout: Duration,
    /// Whether statements may get names.
    names: bool,
    events: Arc<dyn Events>,
    /// `None` before the first connection and after a dead one.
    open: Mutex<Option<Arc<OpenConnection>>>,
    /// The turns of callers that connect, with the last failure. Other callers wait for that result
    /// instead of opening a connection each.
    turns: Turns<Option<ConnectFailure>>,
}

/// The connection in use and its state.
pub(crate) struct OpenConnection {
    connected: Connected,
    named: NamedStatements,
    outstanding: Mutex<Outstanding>,
}

/// The outstanding replies of one connection. A caller may give up before any timeout, and then
/// only this record shows that the server is silent.
#[derive(Default)]
struct Outstanding {
    /// Requests whose callers still wait.
    requests: usize,
    /// Since when no reply has come although one is due.
    since: Option<Instant>,
}

/// A request under way. If it is dropped without an answer, its reply stays outstanding.
struct RequestInFlight<'a> {
    connection: &'a OpenConnection,
    answered: bool,
}

struct ConnectFailure {
    error: Error,
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

/// The rows of an answer.
pub(crate) struct Answer {
    pub(crate) rows: Vec<Row>,
    /// Whether the server warned meanwhile: it does when a wait for a standby is cancelled.
    pub(crate) warned: bool,
}

impl ConnectionSlot {
    pub(crate) fn new(connector: Connector, timeout: Duration, names: bool, events: Arc<dyn Events>) -> Self {
        // Longer than an attempt takes.
        let turns = Turns::new(connector.longest().saturating_add(timeout / 2));
        Self { connector, timeout, names, events, open: Mutex::default(), turns }
    }

    /// Runs one statement, as a transaction of its own, in one round trip. Any pooler can pass it
    /// on.
    pub(crate) async fn query(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Answer, Error> {
        let open = self.current().await?;
        self.query_on(&open, sql, parameters).await
    }

    /// Runs one statement on a connection that the caller knows.
    pub(crate) async fn query_on(
        &self,
        open: &Arc<OpenConnection>,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Answer, Error> {
        let warnings = || open.connected.warnings.load(Ordering::Acquire);
        let before = warnings();
        let request = open.begin();
        let answer =
            tokio::time::timeout(self.timeout, open.named.query(&open.connected.client, sql, parameters)).await;
        // Without an answer the request stays outstanding; the next caller replaces the connection.
        let Ok(answer) = answer else { return Err(no_answer()) };
        request.answered();
        match answer {
            Ok(rows) => Ok(Answer { rows, warned: warnings() != before }),
            Err(error) => {
                if ends_connection(&error) {
                    self.forget(open);
                }
                Err(translate(error, Phase::Request))
            }
        }
    }

    /// Sends a statement without waiting, for use in [`Drop`], if there is a usable connection.
    pub(crate) fn send_and_forget(&self, sql: &str) {
        if let Some(open) = self.usable() {
            // The first poll hands the statement over to the task of the connection.
            let _ = open.connected.client.batch_execute(sql).now_or_never();
        }
    }

    /// Returns the connection if it is expected to answer.
    pub(crate) fn usable(&self) -> Option<Arc<OpenConnection>> {
        let open = self.slot().clone()?;
        if open.connected.client.is_closed() {
            self.forget(&open);
            return None;
        }
        if open.is_silent(self.timeout) {
            self.forget(&open);
            open.connected.abandon.notify_one();
            return None;
        }
        Some(open)
    }

    pub(crate) async fn current(&self) -> Result<Arc<OpenConnection>, Error> {
        match self.usable() {
            Some(open) => Ok(open),
            // Boxed, to keep the future of every request small.
            None => Box::pin(self.reconnected()).await,
        }
    }

    /// Connects, unless another caller has connected in the meantime, or has just failed.
    async fn reconnected(&self) -> Result<Arc<OpenConnection>, Error> {
        let mut failure = self.turns.next().await;
        if let Some(open) = self.usable() {
            return Ok(open);
        }
        let mut pause = FIRST_PAUSE;
        if let Some(last) = &*failure {
            if last.at.elapsed() < last.pause {
                return Err(last.error.clone());
            }
            pause = (last.pause * 2).min(LONGEST_PAUSE);
        }
        let mut attempt = ConnectAttempt { failure: &mut failure, since: Instant::now(), pause };
        let connected = self.connector.connect(Arc::clone(&self.events)).await;
        attempt.pause = Duration::ZERO;
        drop(attempt);
        match connected {
            Ok(connected) => {
                *failure = None;
                let open = Arc::new(OpenConnection {
                    connected,
                    named: NamedStatements::new(self.names),
                    outstanding: Mutex::default(),
                });
                *self.slot() = Some(Arc::clone(&open));
                Ok(open)
            }
            Err(error) => {
                *failure = Some(ConnectFailure { error: error.clone(), at: Instant::now(), pause });
                Err(error)
            }
        }
    }

    /// Makes the next request connect anew.
    fn forget(&self, dead: &Arc<OpenConnection>) {
        let mut open = self.slot();
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, dead)) {
            *open = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<OpenConnection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    fn begin(&self) -> RequestInFlight<'_> {
        let mut outstanding = self.outstanding();
        outstanding.requests += 1;
        outstanding.since.get_or_insert_with(Instant::now);
        RequestInFlight { connection: self, answered: false }
    }

    fn is_silent(&self, timeout: Duration) -> bool {
        self.outstanding().since.is_some_and(|since| since.elapsed() >= timeout)
    }

    fn outstanding(&self) -> MutexGuard<'_, Outstanding> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestInFlight<'_> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for RequestInFlight<'_> {
    fn drop(&mut self) {
        let mut outstanding = self.connection.outstanding();
        outstanding.requests -= 1;
        if self.answered {
            // Replies come in order, so all open requests were sent after this one.
            outstanding.since = (outstanding.requests > 0).then(Instant::now);
        }
    }
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        // A caller that gives up at once says nothing about the server.
        if !self.pause.is_zero() && self.since.elapsed() >= FIRST_PAUSE {
            *self.failure = Some(ConnectFailure { error: connect_timed_out(), at: Instant::now(), pause: self.pause });
        }
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSlot").field("connected", &self.slot().is_some()).finish_non_exhaustive()
    }
}
