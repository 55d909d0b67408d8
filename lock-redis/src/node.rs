//! The operations on one Redis: a server, the primary behind sentinels, or a cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, Lease, LeaseId, LockName, LossReason,
    backend::{Attempt, Break, Claim, Grant, Release, Renewal},
};
use redis::Value;

use crate::{
    config::{RedisConfig, Topology},
    connect::Connector,
    error::unexpected,
    keys::Keys,
    link::Link,
    record,
    script::Scripts,
    wake::{RedisWatch, Standing},
};

/// How long the token of a name that nobody uses is kept. Tokens rise by the server's clock even without it.
const TOKEN_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the mark of an id that was released before its acquire arrived is kept: longer than a network holds back a packet.
const GONE_FOR: Duration = Duration::from_secs(300);
/// How long a holder whose lock was broken can find out by whom.
const BROKEN_FOR: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    scripts: Scripts,
    last_stamp: AtomicU64,
}

impl Node {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, Error> {
        let connector = match &config.topology {
            Topology::Standalone(address) => Connector::node(config, address),
            Topology::Sentinel { sentinels, service } => Connector::sentinel(config, sentinels, service),
            Topology::Cluster(seeds) => Connector::cluster(config, seeds),
        }?;
        Ok(Self {
            link: Link::new(connector, config.connect_timeout, config.timeout),
            keys: Keys::new(config.key_prefix.clone(), config.compat),
            scripts: Scripts::new(),
            last_stamp: AtomicU64::new(0),
        })
    }

    /// A number that rises with every request of this process, and roughly with the time across processes. The server compares those
    /// of one id, to know an acquire that arrives after its own release.
    fn stamp(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or_default();
        let next = |last: u64| now.max(last + 1);
        let previous = self.last_stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(previous.unwrap_or_default())
    }

    pub(crate) async fn acquire(&self, claim: &Claim) -> Result<Attempt, Error> {
        let lock = self.keys.lock(&claim.name);
        let keys = [lock.clone(), self.keys.token(&lock), self.keys.gone(&lock, claim.id), self.keys.waiters(&lock)];
        let queuing = self.link.wakers.queuing(&lock);
        let call = self
            .scripts
            .acquire
            .call(&keys)
            .arg(claim.id.to_string())
            .arg(millis(ttl(claim.ttl)?))
            .arg(record::tail(claim))
            .arg(millis(TOKEN_IDLE))
            .arg(queuing.channel)
            .arg(&queuing.place)
            .arg(u8::from(queuing.alone))
            .arg(self.stamp());
        let attempt = granted_or_held(self.link.run(&call).await?)?;
        match attempt {
            Attempt::Granted(_) if queuing.alone => self.link.wakers.note(&lock, Standing::Out, None),
            Attempt::Held(_) if !queuing.channel.is_empty() => self.link.wakers.note(&lock, Standing::Queued, None),
            _ => {}
        }
        Ok(attempt)
    }

    /// One call for all of them; on a cluster one for each, as a script runs on one slot, and concurrent requests are pipelined.
    pub(crate) async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        if self.link.is_cluster() && leases.len() > 1 {
            return join_all(leases.iter().map(|lease| self.renew(std::slice::from_ref(lease))))
                .await
                .into_iter()
                .map(|result| result.map(|mut renewals| renewals.remove(0)))
                .collect();
        }
        match self.renew(leases).await {
            Ok(renewals) => renewals.into_iter().map(Ok).collect(),
            Err(error) => leases.iter().map(|_| Err(again(&error))).collect(),
        }
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>, Error> {
        let keys: Vec<_> = leases
            .iter()
            .flat_map(|lease| {
                let lock = self.keys.lock(&lease.name);
                let (token, broken) = (self.keys.token(&lock), self.keys.broken(&lock, lease.id));
                [lock, token, broken]
            })
            .collect();
        let mut call = self.scripts.renew.call(&keys);
        for lease in leases {
            call = call.arg(lease.id.to_string()).arg(millis(ttl(lease.ttl)?));
        }
        match self.link.run(&call).await? {
            Value::Array(answers) if answers.len() == leases.len() => {
                answers.into_iter().zip(leases).map(|(answer, lease)| renewed_or_lost(answer, lease)).collect()
            }
            answer => Err(unexpected(&answer)),
        }
    }

    pub(crate) async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let lock = self.keys.lock(&lease.name);
        let mut keys =
            vec![lock.clone(), self.keys.token(&lock), self.keys.gone(&lock, lease.id), self.keys.waiters(&lock)];
        keys.extend(self.keys.signal(&lease.name));
        let hold_for = if hold_for.is_zero() { 0 } else { millis(hold_for) };
        let call = self
            .scripts
            .release
            .call(&keys)
            .arg(lease.id.to_string())
            .arg(hold_for)
            .arg(millis(TOKEN_IDLE))
            .arg(millis(GONE_FOR))
            .arg(u8::from(self.link.is_cluster()))
            .arg(self.stamp());
        match self.link.run(&call).await? {
            Value::Array(answer) => match answer.first() {
                Some(Value::Int(1)) => Ok(Release::Released),
                Some(Value::Int(4)) => Ok(Release::NotHeld(None)),
                _ => refusal(&answer).map(Release::NotHeld),
            },
            answer => Err(unexpected(&answer)),
        }
    }

    pub(crate) async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.inspect_key(self.keys.lock(name)).await
    }

    async fn inspect_key(&self, lock: String) -> Result<Option<Holder>, Error> {
        match self.link.run(&self.scripts.inspect.call(&[lock])).await? {
            Value::Array(answer) => refusal(&answer),
            answer => Err(unexpected(&answer)),
        }
    }

    pub(crate) async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        // Only locks of ours have a version, and it is the id; anything else is not what is there now.
        let Ok(id) = version.parse::<LeaseId>() else {
            return self.inspect(name).await.map(Break::Changed);
        };
        let lock = self.keys.lock(name);
        let keys = [lock.clone(), self.keys.token(&lock), self.keys.broken(&lock, id), self.keys.waiters(&lock)];
        let call = self
            .scripts
            .break_lock
            .call(&keys)
            .arg(id.to_string())
            .arg(by)
            .arg(millis(TOKEN_IDLE))
            .arg(millis(BROKEN_FOR))
            .arg(u8::from(self.link.is_cluster()));
        match self.link.run(&call).await? {
            Value::Array(answer) if answer.first() == Some(&Value::Int(1)) => Ok(Break::Broken),
            Value::Array(answer) => refusal(&answer).map(Break::Changed),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Joins the queue of `name`. From then on a release wakes this process when its turn comes.
    pub(crate) async fn watch(self: &Arc<Self>, name: &LockName) -> Result<RedisWatch, Error> {
        let lock = self.keys.lock(name);
        // Before the effect, so that it is undone by the drop of the watch whatever happens next.
        let mut watch = RedisWatch::new(Arc::clone(self), lock.clone());
        if !self.enqueue(&lock).await? {
            watch.complete();
        }
        Ok(watch)
    }

    /// Puts this process into the queue of a lock. `false` when the lock is free.
    pub(crate) async fn enqueue(&self, lock: &str) -> Result<bool, Error> {
        self.link.wakers.note(lock, Standing::Unsure, None);
        self.link.subscribe().await?;
        let keys = [lock.to_owned(), self.keys.waiters(lock)];
        let answer = self.link.run(&self.scripts.wait.call(&keys).arg(self.link.wakers.channel())).await?;
        let Value::Array(items) = &answer else { return Err(unexpected(&answer)) };
        match &items[..] {
            [Value::Int(1), Value::BulkString(place)] => {
                self.link.wakers.note(lock, Standing::Queued, Some(String::from_utf8_lossy(place).into_owned()));
                Ok(true)
            }
            [Value::Int(0)] => {
                self.link.wakers.note(lock, Standing::Out, None);
                Ok(false)
            }
            _ => Err(unexpected(&answer)),
        }
    }

    /// Leaves the queue, or passes a wake-up on that will not be used.
    pub(crate) fn leave(&self, lock: &str) {
        let keys = [lock.to_owned(), self.keys.waiters(lock)];
        let cluster = u8::from(self.link.is_cluster());
        self.link.send_and_forget(&self.scripts.leave.call(&keys).arg(self.link.wakers.channel()).arg(cluster));
    }
}

/// The failure of a call that was made for several leases, for each of them.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string())
        .with_retryable(error.is_retryable())
        .with_ambiguous(error.is_ambiguous());
    match std::error::Error::source(error) {
        Some(source) => copy.with_source(source.to_string()),
        None => copy,
    }
}

fn ttl(ttl: Option<Duration>) -> Result<Duration, Error> {
    ttl.ok_or_else(|| Error::new(ErrorKind::Config, "a lock on Redis needs a ttl"))
}

/// Whole milliseconds, rounded up: Redis has no finer time, refuses 0, and a lease must never be shorter than asked for.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

fn granted_or_held(answer: Value) -> Result<Attempt, Error> {
    let Value::Array(items) = &answer else { return Err(unexpected(&answer)) };
    match &items[..] {
        [Value::Int(1), Value::BulkString(token), rest @ ..] => {
            let token = std::str::from_utf8(token).ok().and_then(|t| t.parse().ok()).and_then(FencingToken::new);
            let crashed = match rest {
                [Value::BulkString(record)] => record::parse(record),
                _ => None,
            };
            match token {
                Some(token) => Ok(Attempt::Granted(Grant { token: Some(token), crashed, already_ours: false })),
                None => Err(Error::new(
                    ErrorKind::Corrupt,
                    "the fencing tokens of this lock are used up: its token key in Redis was tampered with; delete that key",
                )),
            }
        }
        [Value::Int(2), Value::BulkString(record)] => {
            let token = record::parse(record).and_then(|holder| holder.token);
            Ok(Attempt::Granted(Grant { token, crashed: None, already_ours: true }))
        }
        [Value::Int(3)] => {
            Err(Error::new(ErrorKind::Other, "this attempt reached Redis after its own lease id had been released"))
        }
        items => match refusal(items)? {
            Some(holder) => Ok(Attempt::Held(holder)),
            None => Err(unexpected(&answer)),
        },
    }
}

/// The holder in a refusal of a script.
fn refusal(items: &[Value]) -> Result<Option<Holder>, Error> {
    match items {
        [Value::Int(0), rest @ ..] => current(rest),
        _ => Err(unexpected(&Value::Array(items.to_vec()))),
    }
}

/// `[record, remaining ms, type]` as a holder.
fn current(items: &[Value]) -> Result<Option<Holder>, Error> {
    match items {
        [Value::BulkString(value), Value::Int(ttl), _] => Ok(Some(record::holder(Some(value), *ttl, None))),
        [Value::Nil, Value::Int(ttl), Value::BulkString(kind)] => match &kind[..] {
            b"none" => Ok(None),
            kind => Ok(Some(record::holder(None, *ttl, std::str::from_utf8(kind).ok()))),
        },
        _ => Err(unexpected(&Value::Array(items.to_vec()))),
    }
}

fn renewed_or_lost(answer: Value, lease: &Lease) -> Result<Renewal, Error> {
    let items = match answer {
        Value::Int(1) => return Ok(Renewal::Renewed),
        Value::Array(items) => items,
        answer => return Err(unexpected(&answer)),
    };
    let [now @ .., token, broken] = &items[..] else { return Err(unexpected(&Value::Array(items))) };
    if let Value::BulkString(by) = broken {
        return Ok(Renewal::Lost(LossReason::BrokenBy(String::from_utf8_lossy(by).into_owned())));
    }
    // A lock that is only kept refused after its release has an owner, but no version.
    let holder = current(now)?.filter(|holder| holder.version.is_some() || holder.foreign.is_some());
    Ok(Renewal::Lost(match (holder, token) {
        (Some(holder), _) => LossReason::TakenBy(Box::new(holder)),
        (None, Value::BulkString(last)) if ends_in_our_record(last, lease.id) => LossReason::Expired,
        (None, _) => LossReason::RecordGone,
    }))
}

/// Whether the token key says that `id` was the last holder and has not released.
fn ends_in_our_record(last: &[u8], id: LeaseId) -> bool {
    let mut parts = last.splitn(2, |&b| b == b' ');
    let held = parts.nth(1).and_then(|state| state.strip_prefix(b"H"));
    held.is_some_and(|record| record.starts_with(id.to_string().as_bytes()))
}
