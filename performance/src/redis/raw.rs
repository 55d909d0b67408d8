//! Locks without a library: the least that a lock needs.

use lock_core::backend::LeaseId;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{TTL, connect, url};

pub(super) const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// The smallest script that creates a fencing token from the server's clock, keeps the token after
/// the release, and stores the holder and its start. Texts of 16 digits compare as numbers do, and
/// take the server less.
const ACQUIRE_WITH_TOKEN: &str = "
local call, lock, last_token = redis.call, KEYS[1], KEYS[2]
local time = call('TIME')
local token = string.format('%s%06d', time[1], time[2])
local last = call('GET', last_token)
if last and last >= token then token = string.format('%.0f', last + 1) end
if not call('SET', lock, ARGV[1] .. ' ' .. token .. ' ' .. ARGV[3], 'NX', 'PX', ARGV[2]) then
  return {0, call('GET', lock)}
end
call('SET', last_token, token, 'PX', '2592000000')
return token";

const COMPARE_ID_AND_DELETE: &str = "
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 32) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return \
0 end";

/// Releases, and wakes the subscribers.
const COMPARE_DELETE_AND_WAKE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1]) redis.call('PUBLISH', KEYS[1] .. ':free', '1') return 1";

/// Sets `key` to `id` if it does not exist.
pub(super) async fn try_set(connection: &mut MultiplexedConnection, key: &str, id: &str) -> bool {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(id).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
    let answer: redis::Value = set.query_async(connection).await.expect("the server answers");
    answer == redis::Value::Okay
}

/// Two round trips: `SET NX PX`, and a script that compares and deletes.
#[derive(Clone)]
pub(super) struct Raw {
    connection: MultiplexedConnection,
    release: redis::Script,
}

impl Raw {
    pub(super) async fn new(port: u16) -> Self {
        Self { connection: connect(port).await, release: redis::Script::new(COMPARE_AND_DELETE) }
    }

    pub(super) async fn cycle(&mut self, key: &str) {
        let id = LeaseId::random().to_string();
        assert!(try_set(&mut self.connection, key, &id).await, "it is free");
        let deleted: i64 =
            self.release.key(key).arg(&id).invoke_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(deleted, 1);
    }
}

/// Two round trips, which also return a token.
#[derive(Clone)]
pub(super) struct RawWithToken {
    connection: MultiplexedConnection,
    acquire: redis::Script,
    release: redis::Script,
}

impl RawWithToken {
    pub(super) async fn new(port: u16) -> Self {
        Self {
            connection: connect(port).await,
            acquire: redis::Script::new(ACQUIRE_WITH_TOKEN),
            release: redis::Script::new(COMPARE_ID_AND_DELETE),
        }
    }

    pub(super) async fn cycle(&mut self, key: &str) {
        let id = LeaseId::random().to_string();
        let mut acquire = self.acquire.key(key);
        acquire.key(format!("{key}:t")).arg(&id).arg(TTL.as_millis() as u64).arg("bench:1");
        let token: u64 = acquire.invoke_async(&mut self.connection).await.expect("the server answers");
        assert!(token > 0);
        let deleted: i64 =
            self.release.key(key).arg(&id).invoke_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(deleted, 1);
    }
}

/// The minimum for a process that waits without polling: a connection that receives releases.
pub(super) struct Listener {
    connection: MultiplexedConnection,
    pushes: UnboundedReceiver<redis::PushInfo>,
    release: redis::Script,
    key: String,
    id: String,
}

impl Listener {
    pub(super) async fn new(port: u16, key: &str) -> Self {
        let (sender, pushes) = tokio::sync::mpsc::unbounded_channel();
        let client = redis::Client::open(format!("{}/?protocol=resp3", url(port))).expect("a URL");
        let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.expect("the server answers");
        connection.subscribe(format!("{key}:free")).await.expect("the server answers");
        let release = redis::Script::new(COMPARE_DELETE_AND_WAKE);
        Self { connection, pushes, release, key: key.to_owned(), id: LeaseId::random().to_string() }
    }

    pub(super) async fn acquire(&mut self) {
        loop {
            // Messages of earlier releases say nothing about the next attempt.
            while self.pushes.try_recv().is_ok() {}
            if try_set(&mut self.connection, &self.key, &self.id).await {
                return;
            }
            let _ = self.pushes.recv().await.expect("the connection lives");
        }
    }

    pub(super) async fn release(&mut self) {
        let mut release = self.release.key(&self.key);
        let deleted: i64 = release.arg(&self.id).invoke_async(&mut self.connection).await.expect("an answer");
        assert_eq!(deleted, 1);
    }
}
