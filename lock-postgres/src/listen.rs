//! Wake-ups: waiters listen, on a connection of their own, and a release notifies them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lock_core::{
    Error, Holder, LockName,
    backend::{FoundOnce, LeaseId, Watch},
};
use tokio::sync::watch;
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

/// How long a waiter that is one of many pauses at most before it asks, after a release has woken
/// them all. With these pauses one of them has the lock before most others ask.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The unit of these pauses. They grow with the square of the attempts that a wait takes, so that
/// two or three waiters hardly pause.
const PAUSE: Duration = Duration::from_millis(3);

/// The most other holders that a waiter counts. As many make the longest pause.
const MOST_COUNTED: usize = 20;

/// How long a process remembers how many attempts a wait took.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How many channels without waiters a process remembers.
const MOST_REMEMBERED: usize = 1000;

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
    hears: FoundOnce<bool>,
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
    /// How many wake-ups the last waits took, and when the last one ended.
    wake_ups: f64,
    waited: Option<Instant>,
    /// The owners of the lock that refused attempts of the present wait have shown, as hashes.
    others: HashSet<u64>,
}

impl Channel {
    fn new(changes: watch::Sender<()>) -> Self {
        let (on, others) = (Weak::new(), HashSet::new());
        Self { watches: 0, changes, on, announced: None, wake_ups: 0.0, waited: None, others }
    }

    /// How long a waiter that was woken `before` without getting the lock pauses before it asks.
    fn pause(&self, before: u32) -> Duration {
        let known = self.waited.filter(|at| at.elapsed() < REMEMBERED).map_or(0.0, |_| self.wake_ups);
        longest_pause(known.max(self.of_a_crowd(before))).mul_f64(fastrand::f64())
    }

    /// Notes a wait that took this many wake-ups.
    fn note_wait(&mut self, wake_ups: u32) {
        self.wake_ups = f64::midpoint(self.wake_ups, self.of_a_crowd(wake_ups));
        self.waited = Some(Instant::now());
        self.others.clear();
    }

    /// Notes who has the lock for which this process waits.
    fn note_holder(&mut self, owner: &str) {
        if self.others.len() < MOST_COUNTED {
            let mut hasher = DefaultHasher::new();
            owner.hash(&mut hasher);
            self.others.insert(hasher.finish());
        }
    }

    /// Returns how many of the wake-ups of this wait are the sign of a crowd. One process that
    /// releases and acquires again and again is no crowd, however often it wakes the waiter.
    fn of_a_crowd(&self, wake_ups: u32) -> f64 {
        let others = u32::try_from(self.others.len()).unwrap_or(u32::MAX);
        f64::from(wake_ups).min(1.0 + f64::from(others))
    }
}

/// The longest pause of a waiter, if a wait takes this many wake-ups. The first one that finds the
/// lock taken is no sign of a crowd yet.
fn longest_pause(wake_ups: f64) -> Duration {
    PAUSE.mul_f64((wake_ups - 1.0).clamp(0.0, 100.0).powi(2)).min(LONGEST_PAUSE)
}

impl Listener {
    pub(crate) fn new(connector: Connector, timeout: Duration) -> Self {
        let channels = Arc::new(Channels::default());
        let events: Arc<dyn Events> = Arc::clone(&channels) as _;
        // Two connections, each with a request.
        let longest = connector.longest().saturating_add(timeout).saturating_mul(2).saturating_add(ECHO);
        let connection = ConnectionSlot::new(connector, timeout, false, events);
        Self { connection, channels, hears: FoundOnce::new(longest) }
    }

    /// Starts to watch `name`. Returns `None` if notifications do not arrive.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        table: &Table,
        name: &LockName,
    ) -> Result<Option<Box<dyn Watch>>, Error> {
        if !*self.hears.get_or_ask(|| self.hears_itself(table)).await? {
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

    /// Notes the holder that a refused attempt has shown.
    pub(crate) fn note_holder(&self, table: &Table, name: &LockName, holder: &Holder) {
        let owners = std::iter::once(holder).chain(&holder.others).filter_map(|holder| holder.owner.as_deref());
        if let Some(known) = self.channels.map().get_mut(&channel(&table.quoted, name)) {
            owners.for_each(|owner| known.note_holder(owner));
        }
    }

    /// Returns how many other holders the present wait for `name` has met.
    #[cfg(test)]
    pub(crate) fn others(&self, table: &Table, name: &LockName) -> usize {
        self.channels.map().get(&channel(&table.quoted, name)).map_or(0, |known| known.others.len())
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
    /// How often it has woken its waiter, who did not get the lock.
    woken: u32,
    /// When the waiter may ask after a notification. Kept here, because a call may be dropped
    /// during the pause.
    asks: Option<Instant>,
}

impl ChannelWatch {
    fn new(listener: Arc<Listener>, channel: String) -> Self {
        let mut map = listener.channels.map();
        let known = map.entry(channel.clone()).or_insert_with(|| Channel::new(watch::Sender::new(())));
        known.watches += 1;
        let changes = known.changes.subscribe();
        drop(map);
        Self { listener, channel, changes, woken: 0, asks: None }
    }

    fn pause(&self) -> Duration {
        self.listener.channels.map().get(&self.channel).map_or(Duration::ZERO, |known| known.pause(self.woken))
    }
}

#[async_trait]
impl Watch for ChannelWatch {
    async fn changed(&mut self) {
        let asks = match self.asks {
            Some(asks) => asks,
            None => {
                // After a lost connection. If this fails, the waiter polls until it calls again.
                if !self.changes.has_changed().unwrap_or(false) {
                    let _ = self.listener.listen(&self.channel).await;
                }
                // The sender lives as long as any watch of this channel, so this cannot fail.
                let _ = self.changes.changed().await;
                *self.asks.insert(Instant::now() + self.pause())
            }
        };
        if asks > Instant::now() {
            tokio::time::sleep_until(asks.into()).await;
        }
        self.asks = None;
        // The waiter asks after this moment, so it needs no earlier notification.
        self.changes.mark_unchanged();
        self.woken = self.woken.saturating_add(1);
    }
}

impl Drop for ChannelWatch {
    fn drop(&mut self) {
        let mut map = self.listener.channels.map();
        let Some(known) = map.get_mut(&self.channel) else { return };
        known.watches -= 1;
        known.note_wait(self.woken);
        if known.watches == 0 {
            (known.on, known.announced) = (Weak::new(), None);
            if known.wake_ups <= 1.0 || map.len() > MOST_REMEMBERED {
                map.remove(&self.channel);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_waiter_among_many_pauses() {
        for (wake_ups, longest) in [(0.0, 0), (1.0, 0), (2.0, 3), (3.0, 12), (11.0, 300), (1e9, 1000)] {
            assert_eq!(longest_pause(wake_ups), Duration::from_millis(longest), "{wake_ups}");
        }
    }

    #[test]
    fn a_process_remembers_how_crowded_a_channel_is() {
        let mut channel = Channel::new(watch::Sender::new(()));
        let pauses = |channel: &Channel| (0..100).any(|_| channel.pause(0) > PAUSE);
        assert!(!pauses(&channel));
        (0..20).for_each(|other| channel.note_holder(&format!("owner-{other}")));
        channel.note_wait(20);
        assert!(pauses(&channel), "the next wait is in the same crowd");
        for _ in 0..5 {
            channel.note_wait(1);
        }
        assert!(!pauses(&channel), "the crowd has gone");
    }

    #[test]
    fn one_process_that_wakes_often_is_no_crowd() {
        let mut channel = Channel::new(watch::Sender::new(()));
        let longest = |channel: &Channel| longest_pause(channel.of_a_crowd(100)).as_millis();
        (0..100).for_each(|_| channel.note_holder("alone"));
        assert_eq!(longest(&channel), 3);
        channel.note_holder("another");
        assert_eq!(longest(&channel), 12);
        (0..100).for_each(|other| channel.note_holder(&format!("owner-{other}")));
        assert_eq!(longest(&channel), 1000);
        channel.note_wait(100);
        assert_eq!(longest(&channel), 0, "the next wait counts anew");
    }
}
