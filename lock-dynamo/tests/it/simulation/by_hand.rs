//! The backend over the model, on clocks that a test moves by hand: for moments that have to be
//! exact, and orders of events that are rare.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use lock_core::{
    LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Grant, LeaseId},
    clock::{Clock, ClockReading},
};
use lock_dynamo::{DynamoBackend, DynamoConfig};
use serde_json::{Value, json};

use super::{
    exchange::{self, Exchange, ask},
    model_server::Table,
};

pub(crate) const BOUND: Duration = Duration::from_secs(2);
pub(crate) const TTL: Duration = Duration::from_secs(30);
/// In milliseconds, as clocks are off.
pub(crate) const HOUR: i64 = 3_600_000;
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The network delivers it twice, and its client gets the second answer.
    Twice,
    /// The request arrives, and its client gets an error.
    ReplyLost,
    /// Its client gets an error, and the request arrives with [`World::arrive`].
    Held,
    /// Another client's write of this version to the item "a" arrives right before it.
    After(&'static str),
    /// The first place in the queue of the item "a" is kept until then, right before it.
    AfterKept(Duration),
    /// A batch of which only the first statement is answered.
    CutShort,
}

/// One table, its clock, and the requests that it received.
#[derive(Debug)]
pub(crate) struct World {
    table: Mutex<Table>,
    time: Mutex<Duration>,
    /// Something in between answers, with a date of its own.
    proxied: bool,
    seen: Mutex<Vec<(String, Value)>>,
    next: Mutex<VecDeque<Option<Fate>>>,
    held: Mutex<Vec<(String, Value)>>,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::made(false))
    }

    /// Behind something that answers with a date of its own.
    pub(crate) fn proxied() -> Arc<Self> {
        Arc::new(Self::made(true))
    }

    fn made(proxied: bool) -> Self {
        Self {
            table: Mutex::new(Table::new(&["key"])),
            // Not at the beginning of a second.
            time: Mutex::new(EPOCH + Duration::from_millis(300)),
            proxied,
            seen: Mutex::default(),
            next: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// The store's time, since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        *self.time.lock().unwrap()
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.time.lock().unwrap() += time;
    }

    pub(crate) fn set(&self, time: Duration) {
        *self.time.lock().unwrap() = time;
    }

    /// Adds what becomes of the next request that nothing is planned for; `None` for nothing
    /// unusual.
    pub(crate) fn next(&self, fate: impl Into<Option<Fate>>) {
        self.next.lock().unwrap().push_back(fate.into());
    }

    /// Lets the held requests arrive.
    pub(crate) fn arrive(&self) {
        for (operation, body) in self.held.lock().unwrap().drain(..) {
            let _ = ask(&mut self.table.lock().unwrap(), &operation, &body);
        }
    }

    /// The operations since the last call.
    pub(crate) fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap()).into_iter().map(|(operation, _)| operation).collect()
    }

    /// A process that has just started, on a machine whose wall clock is off by so many
    /// milliseconds.
    pub(crate) fn process(self: &Arc<Self>, off: i64) -> DynamoBackend {
        self.configured(off, |config| config)
    }

    pub(crate) fn configured(
        self: &Arc<Self>,
        off: i64,
        configure: impl FnOnce(DynamoConfig) -> DynamoConfig,
    ) -> DynamoBackend {
        let config = configure(DynamoConfig::new("locks").skew_bound(BOUND));
        let clock = self.clock(off);
        self.clocked(config, clock)
    }

    fn clock(self: &Arc<Self>, off: i64) -> Arc<Hands> {
        Arc::new(Hands { world: Arc::clone(self), off: Mutex::new(off), missed: Mutex::default() })
    }

    fn clocked(self: &Arc<Self>, config: DynamoConfig, clock: Arc<Hands>) -> DynamoBackend {
        let sdk = exchange::sdk_config(Arc::clone(self) as Arc<dyn Exchange>);
        DynamoBackend::with_clock(config, clock).with_sdk_config(sdk)
    }

    /// A process, and the clock of its machine.
    pub(crate) fn machine(self: &Arc<Self>) -> (DynamoBackend, Arc<Hands>) {
        let clock = self.clock(0);
        (self.clocked(DynamoConfig::new("locks").skew_bound(BOUND), Arc::clone(&clock)), clock)
    }

    /// The item of a name; empty when there is none.
    pub(crate) fn item(&self, name: &str) -> Value {
        let get = json!({ "TableName": "locks", "Key": { "key": { "S": name } }, "ConsistentRead": true });
        let (_, body) = ask(&mut self.table.lock().unwrap(), "GetItem", &get);
        body["Item"].clone()
    }

    pub(crate) fn number(&self, name: &str, attribute: &str) -> i64 {
        self.item(name)[attribute]["N"].as_str().expect("a number").parse().expect("of 64 bits")
    }

    /// Puts a value at a path, without a lock operation.
    pub(crate) fn put(&self, name: &str, path: &str, value: Value) {
        let update = json!({
            "TableName": "locks", "Key": { "key": { "S": name } }, "UpdateExpression": format!("SET {path} = :v"),
            "ExpressionAttributeValues": { ":v": value },
        });
        assert_eq!(ask(&mut self.table.lock().unwrap(), "UpdateItem", &update).0, 200);
    }

    pub(crate) fn delete(&self, name: &str) {
        let delete = json!({ "TableName": "locks", "Key": { "key": { "S": name } } });
        assert_eq!(ask(&mut self.table.lock().unwrap(), "DeleteItem", &delete).0, 200);
    }
}

impl Exchange for World {
    fn exchange(&self, operation: &str, body: &Value) -> (u16, Value) {
        self.seen.lock().unwrap().push((operation.into(), body.clone()));
        let fate = self.next.lock().unwrap().pop_front().flatten();
        let unanswered = (500, json!({ "__type": "InternalServerError", "message": "" }));
        match fate {
            Some(Fate::Held) => {
                self.held.lock().unwrap().push((operation.into(), body.clone()));
                return unanswered;
            }
            Some(Fate::After(version)) => self.put("a", "version", json!({ "S": version })),
            Some(Fate::AfterKept(until)) => {
                self.put("a", "places[0].expires_at", json!({ "N": until.as_millis().to_string() }));
            }
            _ => {}
        }
        let mut table = self.table.lock().unwrap();
        table.collect(i64::try_from(self.now().as_secs()).expect("a time"));
        if fate == Some(Fate::Twice) {
            let _ = ask(&mut table, operation, body);
        }
        let (status, mut body) = ask(&mut table, operation, body);
        match fate {
            Some(Fate::ReplyLost) => return unanswered,
            Some(Fate::CutShort) => body["Responses"].as_array_mut().expect("of a batch").truncate(1),
            Some(Fate::Held | Fate::Twice | Fate::After(_) | Fate::AfterKept(_)) | None => {}
        }
        (status, body)
    }

    fn date(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }

    fn is_dynamodb(&self) -> bool {
        !self.proxied
    }
}

/// The clocks of one machine.
#[derive(Debug)]
pub(crate) struct Hands {
    world: Arc<World>,
    /// The wall clock less the store's, in milliseconds.
    off: Mutex<i64>,
    /// What passed without any of them noticing.
    missed: Mutex<Duration>,
}

impl Hands {
    pub(crate) fn set_off(&self, millis: i64) {
        *self.off.lock().unwrap() = millis;
    }

    /// Stops the machine for this long, as when it is moved while it runs.
    pub(crate) fn miss(&self, time: Duration) {
        *self.missed.lock().unwrap() += time;
        self.world.pass(time);
    }
}

impl Clock for Hands {
    fn now(&self) -> ClockReading {
        let (time, off) = (self.world.now() - *self.missed.lock().unwrap(), *self.off.lock().unwrap());
        let shift = Duration::from_millis(off.unsigned_abs());
        let wall = if off < 0 { time - shift } else { time + shift };
        ClockReading { boot: time - EPOCH + Duration::from_secs(1_000), wall }
    }
}

pub(crate) fn request(name: &str) -> AcquireRequest {
    let name = LockName::new(name).expect("a good name");
    AcquireRequest::new(name, LeaseId::random(), "test").with_ttl(TTL)
}

#[track_caller]
pub(crate) fn granted(attempt: Result<AcquireOutcome, lock_core::Error>) -> Grant {
    match attempt.expect("the store answers") {
        AcquireOutcome::Granted(grant) => grant,
        AcquireOutcome::Contended(holder) => panic!("held by {holder}"),
    }
}

/// Acquires for a new request, which it returns with the token in its lease.
pub(crate) async fn take(backend: &DynamoBackend, name: &str) -> lock_core::backend::Lease {
    let request = request(name);
    let grant = granted(backend.acquire(&request).await);
    request.lease(grant.token)
}
