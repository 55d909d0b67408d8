//! Statements with names, which the server parses and plans once for a connection.
//!
//! A pooler in transaction mode passes each statement to another session. A name may be unknown
//! there, or may be that of another client's statement. So names are used only on a connection that
//! leads to one session of the server.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Client, Error, Row, Statement,
    error::SqlState,
    tls::{ChannelBinding, TlsConnect, TlsStream},
    types::{ToSql, Type},
};

use crate::connection::Parameters;

/// How many times a statement runs before it gets a name. To give one takes a round trip, which a
/// process that locks once should not pay.
const BEFORE_NAMED: u32 = 5;

/// A plan is kept, so it must not be one for a table that was small when it was made.
const KEPT_PLANS: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off";

/// The named statements of one connection.
pub(crate) struct NamedStatements {
    /// Cleared for good when the server refuses a name.
    is_enabled: AtomicBool,
    /// Whether the connection leads to one session, once that is known. Locked by the request that
    /// gives a statement its name. Others go on without one, as that request may not be driven.
    is_one_session: tokio::sync::Mutex<Option<bool>>,
    // Few, so comparing their texts takes less time than hashing one.
    used: Mutex<Vec<UsedStatement>>,
}

struct UsedStatement {
    sql: String,
    uses: u32,
    statement: Arc<OnceLock<Statement>>,
}

impl NamedStatements {
    pub(crate) fn new(is_enabled: bool) -> Self {
        Self {
            is_enabled: AtomicBool::new(is_enabled),
            is_one_session: tokio::sync::Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// Runs a statement in one round trip: by its name, or as one without a name.
    pub(crate) async fn query(
        &self,
        client: &Client,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        if let Some(statement) = self.statement(client, sql, parameters).await {
            let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
            match client.query(&statement, &values).await {
                // The server did nothing.
                Err(error) if is_refused_name(&error) => self.is_enabled.store(false, Ordering::Relaxed),
                answer => return answer,
            }
        }
        client.query_typed(sql, parameters).await
    }

    /// Returns the named statement for `sql`, if there should be one. An error leaves it without a
    /// name, and the statement itself shows what is wrong.
    async fn statement(&self, client: &Client, sql: &str, parameters: &Parameters<'_>) -> Option<Statement> {
        // A statement without parameters is used once: it contains its values.
        if parameters.is_empty() || !self.is_enabled.load(Ordering::Relaxed) {
            return None;
        }
        let statement = self.count(sql)?;
        if statement.get().is_none() {
            // Boxed, to keep the future of every request small.
            Box::pin(self.name(client, sql, parameters, &statement)).await;
        }
        statement.get().cloned()
    }

    /// Gives `sql` a name, if the connection leads to one session and no other request does it.
    async fn name(&self, client: &Client, sql: &str, parameters: &Parameters<'_>, named: &OnceLock<Statement>) {
        let Ok(mut known) = self.is_one_session.try_lock() else { return };
        if known.is_none() {
            *known = is_one_session(client).await.ok();
        }
        match *known {
            Some(true) => {}
            Some(false) => return self.is_enabled.store(false, Ordering::Relaxed),
            None => return,
        }
        // Another request may have named it right before.
        if named.get().is_some() {
            return;
        }
        let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        match client.prepare_typed(sql, &types).await {
            Ok(statement) => _ = named.set(statement),
            Err(error) if is_refused_name(&error) => self.is_enabled.store(false, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// Counts a use of `sql`. Returns the place of its named statement if it is used often.
    fn count(&self, sql: &str) -> Option<Arc<OnceLock<Statement>>> {
        let mut used = self.used();
        match used.iter_mut().find(|known| known.sql == sql) {
            Some(known) if known.uses >= BEFORE_NAMED => Some(Arc::clone(&known.statement)),
            Some(known) => {
                known.uses += 1;
                None
            }
            None => {
                used.push(UsedStatement { sql: sql.to_owned(), uses: 1, statement: Arc::default() });
                None
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, Vec<UsedStatement>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server refused a statement before it began: its name is unknown or taken, because
/// sessions changed, or the table's columns changed since it was planned.
fn is_refused_name(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT, SqlState::FEATURE_NOT_SUPPORTED]
            .contains(code)
    })
}

/// Whether the session that serves the connection is the one that the login announced. A pooler
/// announces an id of its own, because it changes sessions. If it is one session, its plans are
/// set up.
async fn is_one_session(client: &Client) -> Result<bool, Error> {
    let rows = client.query_typed("select pg_backend_pid()", &[]).await?;
    let serving: Option<i32> = rows.first().and_then(|row| row.try_get(0).ok());
    let is_announced = serving.is_some() && serving == announced_process(client);
    if is_announced {
        client.batch_execute(KEPT_PLANS).await?;
    }
    Ok(is_announced)
}

/// The id of the server's process that the login announced. The client writes it only into a
/// request to cancel, so this lets it write one that is not sent.
fn announced_process(client: &Client) -> Option<i32> {
    let mut written = Written::default();
    client.cancel_token().cancel_query_raw(&mut written, PassedOn).now_or_never()?.ok()?;
    // It ends with the id and a secret, of 4 bytes each.
    let (_, end) = written.0.split_last_chunk::<8>()?;
    let [a, b, c, d, ..] = *end;
    Some(i32::from_be_bytes([a, b, c, d]))
}

/// Keeps what is written to it, and consents to TLS, in which it takes no part.
#[derive(Default)]
struct Written(Vec<u8>);

struct PassedOn;

impl<'a> TlsConnect<&'a mut Written> for PassedOn {
    type Stream = &'a mut Written;
    type Error = Infallible;
    type Future = Ready<Result<&'a mut Written, Infallible>>;

    fn connect(self, stream: &'a mut Written) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for &mut Written {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Written {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Written {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
