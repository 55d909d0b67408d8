//! Measures acquire and release of an uncontended lock.

use std::time::{Duration, Instant};

use distributed_lock_core::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_redis::RedisLockProvider;
use lock_core::{
    LockName, Locker, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, LeaseId},
};
use lock_redis::RedisBackend;
use redis::aio::MultiplexedConnection;
use rslock::LockManager;
use test_support::{processor_time, redis::RedisServer};
use tokio::runtime::Runtime;

use super::{TTL, backend, commands, connect, locker, median, micros, python::Process, runtime};

const ROUNDS: usize = 150;
/// The number of cycles in a block.
const CYCLES: u32 = 200;

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// The smallest script that creates a fencing token from the server's clock, keeps the token after
/// the release, and stores the holder and its start.
const ACQUIRE_WITH_TOKEN: &str = "
local held = redis.call('GET', KEYS[1])
if held then return {0, held} end
local time = redis.call('TIME')
local token = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
token = string.format('%.0f', token)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. token .. ' ' .. ARGV[3], 'PX', ARGV[2])
redis.call('SET', KEYS[2], token, 'PX', 2592000000)
return token";

const COMPARE_ID_AND_DELETE: &str = "
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 32) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return \
0 end";

/// Two round trips without a library, which also return a token.
struct RawWithToken {
    connection: MultiplexedConnection,
    acquire: redis::Script,
    release: redis::Script,
}

impl RawWithToken {
    async fn cycle(&mut self) {
        let id = LeaseId::random().to_string();
        let mut acquire = self.acquire.key("fenced");
        acquire.key("fenced:t").arg(&id).arg(TTL.as_millis() as u64).arg("bench:1");
        let token: u64 = acquire.invoke_async(&mut self.connection).await.expect("the server answers");
        assert!(token > 0);
        let deleted: i64 =
            self.release.key("fenced").arg(&id).invoke_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(deleted, 1);
    }
}

/// The minimum of every Redis lock: two round trips, `SET NX PX` and a script that compares and
/// deletes.
struct Raw {
    connection: MultiplexedConnection,
    release: redis::Script,
}

impl Raw {
    async fn cycle(&mut self) {
        let id = LeaseId::random().to_string();
        let millis = TTL.as_millis() as u64;
        let mut set = redis::cmd("SET");
        set.arg("raw").arg(&id).arg("NX").arg("PX").arg(millis);
        let set: redis::Value = set.query_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(set, redis::Value::Okay);
        let deleted: i64 =
            self.release.key("raw").arg(&id).invoke_async(&mut self.connection).await.expect("the server answers");
        assert_eq!(deleted, 1);
    }
}

enum Contestant {
    Raw(Box<Raw>),
    RawWithToken(Box<RawWithToken>),
    Ping(MultiplexedConnection),
    Backend(RedisBackend),
    Locker(Locker),
    Rslock(LockManager),
    DistributedLock(Box<RedisLockProvider>),
    RedisPy(Process),
}

impl Contestant {
    fn all(port: u16, runtime: &Runtime) -> Vec<(&'static str, Self)> {
        runtime.block_on(async {
            let raw = Raw { connection: connect(port).await, release: redis::Script::new(COMPARE_AND_DELETE) };
            let fenced = RawWithToken {
                connection: connect(port).await,
                acquire: redis::Script::new(ACQUIRE_WITH_TOKEN),
                release: redis::Script::new(COMPARE_ID_AND_DELETE),
            };
            let rslock = LockManager::new(vec![super::url(port)]);
            let distributed = RedisLockProvider::builder().url(super::url(port)).expiry(TTL).build().await;
            vec![
                ("raw", Self::Raw(Box::new(raw))),
                ("raw with a token", Self::RawWithToken(Box::new(fenced))),
                ("two pings", Self::Ping(connect(port).await)),
                ("lock-redis, Locker", Self::Locker(locker(port))),
                ("lock-redis, Backend", Self::Backend(backend(port))),
                ("rslock", Self::Rslock(rslock)),
                ("distributed-lock", Self::DistributedLock(Box::new(distributed.expect("the server answers")))),
                ("redis-py", Self::RedisPy(Process::redis_py(port))),
            ]
        })
    }

    async fn cycle(&mut self) {
        match self {
            Self::Raw(raw) => raw.cycle().await,
            Self::RawWithToken(raw) => raw.cycle().await,
            Self::Ping(connection) => {
                for _ in 0..2 {
                    let _: redis::Value = redis::cmd("PING").query_async(connection).await.expect("the server answers");
                }
            }
            Self::Backend(backend) => {
                let request =
                    AcquireRequest::new(LockName::new("backend").expect("a name"), LeaseId::random(), "bench")
                        .with_ttl(TTL);
                let Ok(AcquireOutcome::Granted(grant)) = backend.acquire(&request).await else { panic!("it is free") };
                let _ = backend.release(&request.lease(grant.token), Duration::ZERO).await.expect("it is held");
            }
            Self::Locker(locker) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire("locker").await else { panic!("it is free") };
                let _ = guard.release().await.expect("it is held");
            }
            Self::Rslock(manager) => {
                let lock = manager.lock("rslock", TTL).await.expect("it is free");
                manager.unlock(&lock).await;
            }
            Self::DistributedLock(provider) => {
                let handle = provider.create_lock("distributed").try_acquire().await.expect("the server answers");
                handle.expect("it is free").release().await.expect("it is held");
            }
            Self::RedisPy(_) => unreachable!("a separate process runs the block"),
        }
    }

    /// Runs a block of cycles.
    fn block(&mut self, runtime: &Runtime, server: &RedisServer, cycles: u32) -> Cost {
        let processors = (processor_time(), server.daemon().processor_time());
        let start = Instant::now();
        let elapsed = if let Self::RedisPy(process) = self {
            process.tell(&cycles.to_string());
            Duration::from_nanos(process.answer().unsigned_abs())
        } else {
            runtime.block_on(async {
                for _ in 0..cycles {
                    self.cycle().await;
                }
            });
            start.elapsed()
        };
        Cost {
            elapsed: micros(elapsed / cycles),
            client: micros((processor_time() - processors.0) / cycles),
            server: micros((server.daemon().processor_time() - processors.1) / cycles),
        }
    }
}

/// The cost of one cycle, in microseconds.
struct Cost {
    elapsed: f64,
    /// Processor time of this process.
    client: f64,
    /// Processor time of the server.
    server: f64,
}

pub(crate) fn run() {
    let server = RedisServer::start();
    let runtime = runtime();
    let mut contestants = Contestant::all(server.port(), &runtime);
    println!("\ncommands of one cycle, including those in scripts");
    for (name, contestant) in &mut contestants {
        contestant.block(&runtime, &server, CYCLES);
        server.command(&["CONFIG", "RESETSTAT"]);
        contestant.block(&runtime, &server, 1000);
        let listed = commands(&server).into_iter().map(|(command, calls)| format!("{command} {:.2}", calls / 1000.0));
        println!("{name:<22} {}", listed.collect::<Vec<_>>().join(", "));
    }
    let mut costs: Vec<Vec<Cost>> = contestants.iter().map(|_| Vec::new()).collect();
    // The order changes each time. The scheduler leaves client and server where the previous
    // contestant put them, on one core or on two, and that alone halves or doubles a round trip.
    let mut order: Vec<_> = (0..contestants.len()).collect();
    for _ in 0..ROUNDS {
        fastrand::shuffle(&mut order);
        for &next in &order {
            costs[next].push(contestants[next].1.block(&runtime, &server, CYCLES));
        }
    }
    println!(
        "\n{:<22} {:>8} {:>13} {:>15} {:>15}",
        "uncontended cycle", "µs", "ratio to raw", "client's CPU", "server's CPU"
    );
    for ((name, _), mine) in contestants.iter().zip(&costs) {
        let ratios = mine.iter().zip(&costs[0]).map(|(mine, raw)| mine.elapsed / raw.elapsed).collect();
        let of = |part: fn(&Cost) -> f64| median(mine.iter().map(part).collect());
        let (elapsed, client, server) = (of(|cost| cost.elapsed), of(|cost| cost.client), of(|cost| cost.server));
        println!("{name:<22} {elapsed:>8.1} {:>13.2} {client:>15.1} {server:>15.1}", median(ratios));
    }
    println!("The table does not show the client's CPU of redis-py, which runs in another process.");
}
