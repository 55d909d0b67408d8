//! Wake-ups: waiters listen, on a connection of their own, and a release notifies them.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lock_core::{
    Error, LockName,
    backend::{LeaseId, Watch},
};
use tokio::sync::{OnceCell, watch};
use tokio_postgres::types::Type;

use crate::{
    connect::{Connector, Events},
    connection::{ConnectionSlot, OpenConnection},
    sql::WAITER_SECONDS,
    table::Table,
};

/// How long a notification of our own may take to come back. One that takes longer was dropped by a
/// pooler.
const ECHO: Duration = Duration::from_secs(1);

/// Waiters announce themselves again when half of the time is over.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(WAITER_SECONDS / 2);

/// The channel on which a release of `name` is notified. Names may share a channel: then a waiter
/// asks once more than needed.
pub(crate) fn channel(table: &str, name: &LockName) -> String {
    // FNV-1a, because all processes must agree on the channel, also those built with another Rust.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in table.bytes().chain([0]).chain(name.as_str().bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("onelock_{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// The waiters of this process, and the connection on which they listen.
pub(crate) struct Listener {
    connection: ConnectionSlot,
    channels: Arc<Channels>,
    /// Whether notifications arrive at all.
    hears: OnceCell<bool>,
}

#[derive(Default)]
struct Channels(Mutex<HashMap<String, Channel>>);

/// The waiters of this process on one channel.
struct Channel {
    watches: usize,
    changes: watch::Sender<()>,
    /// The connection that listens to it.
    on: Weak<OpenConnection>,
    /// When a waiter was last announced in the row.
    announced: Option<Instant>,
}

impl Listener {
    pub(crate) fn new(connector: Connector, timeout: Duration) -> Self {
        let channels = Arc::new(Channels::default());
        let events: Arc<dyn Events> = Arc::clone(&channels) as _;
        Self { connection: ConnectionSlot::new(connector, timeout, false, events), channels, hears: OnceCell::new() }
    }

    /// Starts to watch `name`. Returns `None` if notifications do not arrive.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        table: &Table,
        name: &LockName,
    ) -> Result<Option<Box<dyn Watch>>, Error> {
        if !*self.hears.get_or_try_init(|| self.hears_itself(table)).await? {
            return Ok(None);
        }
        let mut watch = ChannelWatch::new(Arc::clone(self), channel(&table.quoted, name));
        self.listen(&watch.channel).await?;
        self.announce(table, name).await?;
        // An earlier release wakes no watch that begins now.
        watch.changes.mark_unchanged();
        Ok(Some(Box::new(watch)))
    }

    /// Announces the waiters of this process for `name` again, if it is time.
    pub(crate) async fn announce_again(&self, table: &Table, name: &LockName) -> Result<(), Error> {
        let channel = channel(&table.quoted, name);
        let is_due = |known: &Channel| known.announced.is_none_or(|at| at.elapsed() >= ANNOUNCE_AGAIN);
        if !self.channels.map().get(&channel).is_some_and(is_due) {
            return Ok(());
        }
        self.announce(table, name).await
    }

    async fn announce(&self, table: &Table, name: &LockName) -> Result<(), Error> {
        let begun = Instant::now();
        table.announce_waiter(name).await?;
        if let Some(known) = self.channels.map().get_mut(&channel(&table.quoted, name)) {
            known.announced = Some(begun);
        }
        Ok(())
    }

    /// Listens to `channel`, unless the connection does already.
    async fn listen(&self, channel: &str) -> Result<(), Error> {
        let open = self.connection.current().await?;
        let listens = |known: &Channel| known.on.upgrade().is_some_and(|on| Arc::ptr_eq(&on, &open));
        if self.channels.map().get(channel).is_some_and(listens) {
            return Ok(());
        }
        self.connection.query_on(&open, &format!("listen {channel}"), &[]).await?;
        if let Some(known) = self.channels.map().get_mut(channel) {
            known.on = Arc::downgrade(&open);
            // A release before it began to listen was not heard.
            known.changes.send_replace(());
        }
        Ok(())
    }

    /// Whether a notification that the connection of the locks sends arrives here. A pooler between
    /// drops it, or gives it to another client.
    pub(crate) async fn hears_itself(self: &Arc<Self>, table: &Table) -> Result<bool, Error> {
        let mut echo = ChannelWatch::new(Arc::clone(self), format!("onelock_{}", LeaseId::random()));
        self.listen(&echo.channel).await?;
        echo.changes.mark_unchanged();
        table.connection.query("select pg_notify($1, '')::text", &[(&echo.channel, Type::TEXT)]).await?;
        let heard = tokio::time::timeout(ECHO, echo.changes.changed()).await.is_ok();
        if !heard {
            tracing::warn!(
                "waiters are not woken, because notifications do not arrive: a pooler is between; \
                 name the server itself by the option listen, or set wake=off"
            );
        }
        Ok(heard)
    }
}

impl Channels {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for Channels {
    fn notified(&self, channel: &str) {
        if let Some(known) = self.map().get(channel) {
            known.changes.send_replace(());
        }
    }

    /// Notifications may be lost with the connection, so all waiters ask again.
    fn ended(&self) {
        self.map().values().for_each(|known| {
            known.changes.send_replace(());
        });
    }
}

/// Waits for a notification on one channel.
struct ChannelWatch {
    listener: Arc<Listener>,
    channel: String,
    changes: watch::Receiver<()>,
}

impl ChannelWatch {
    fn new(listener: Arc<Listener>, channel: String) -> Self {
        let changes = match listener.channels.map().entry(channel.clone()) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().watches += 1;
                entry.get().changes.subscribe()
            }
            Entry::Vacant(entry) => {
                let (changes, receiver) = watch::channel(());
                entry.insert(Channel { watches: 1, changes, on: Weak::new(), announced: None });
                receiver
            }
        };
        Self { listener, channel, changes }
    }
}

#[async_trait]
impl Watch for ChannelWatch {
    async fn changed(&mut self) {
        // After a lost connection. If this fails, the waiter polls until it calls again.
        if !self.changes.has_changed().unwrap_or(false) {
            let _ = self.listener.listen(&self.channel).await;
        }
        // The sender lives as long as any watch of this channel, so this cannot fail.
        let _ = self.changes.changed().await;
    }
}

impl Drop for ChannelWatch {
    fn drop(&mut self) {
        let mut map = self.listener.channels.map();
        let Some(known) = map.get_mut(&self.channel) else { return };
        known.watches -= 1;
        if known.watches == 0 {
            map.remove(&self.channel);
            // Under the lock, so that the next watch of this channel listens after this.
            self.listener.connection.send_and_forget(&format!("unlisten {}", self.channel));
        }
    }
}

impl fmt::Debug for ChannelWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelWatch").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("channels", &self.channels.map().len()).finish_non_exhaustive()
    }
}
