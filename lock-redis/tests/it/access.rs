//! Login, databases, the unix socket, missing rights, and secrets in messages.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, FencingToken, LossReason, Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Grant, LeaseId, Release, Renewal},
};
use lock_redis::{Address, RedisBackend, RedisConfig};
use test_support::{
    redis::{RedisServer, command},
    until,
};

use crate::fixture;

/// The rules in the README for a user that may only use locks.
const RULES: &[&str] = &[
    "resetkeys",
    "~onelock:*",
    "resetchannels",
    "&onelock:*",
    "+evalsha",
    "+eval",
    "+mget",
    "+set",
    "+setrange",
    "+del",
    "+pexpire",
    "+pttl",
    "+type",
    "+exists",
    "+time",
    "+publish",
    "+subscribe",
    "+zadd",
    "+zrem",
    "+zpopmin",
    "+scan",
    "+hello",
    "+select",
    "+ping",
];

/// The further rules in the README for shared locks and permits.
const MODE_RULES: &[&str] = &[
    "+zrange",
    "+zrevrange",
    "+zrangebyscore",
    "+zcount",
    "+zscore",
    "+hget",
    "+hmget",
    "+hset",
    "+hdel",
    "+pexpireat",
];

fn tcp(server: &RedisServer) -> RedisConfig {
    RedisConfig::standalone(Address::tcp("127.0.0.1", server.port()))
}

/// Logs in as a user with these rules only.
fn as_user(server: &RedisServer, rules: &[&str]) -> RedisConfig {
    let reply = server.command(&[&["ACL", "SETUSER", "app", "reset", "on", ">s3cret"], rules].concat());
    assert_eq!(reply, "+OK\r\n");
    tcp(server).login("app", "s3cret")
}

/// Logs in as a user who lacks one of the [`RULES`].
fn as_user_without(server: &RedisServer, missing: &str) -> RedisConfig {
    as_user(server, &RULES.iter().copied().filter(|rule| *rule != missing).collect::<Vec<_>>())
}

fn request(name: &str) -> AcquireRequest {
    fixture::request(name, Duration::from_secs(60))
}

/// Runs every operation once.
async fn use_all(config: RedisConfig) -> Result<(), Error> {
    let backend = RedisBackend::new(config)?;
    // A separate name, because a lock may stay behind if a right is missing.
    let name = format!("all/{}", LeaseId::random());
    let (request, rival) = (request(&name), request(&name));
    let AcquireOutcome::Granted(grant) = backend.acquire(&request).await? else { panic!("the lock is free") };
    let lease = request.lease(grant.token);
    let watch = backend.watch(&request.name).await?;
    assert!(matches!(backend.acquire(&rival).await?, AcquireOutcome::Contended(_)));
    assert_eq!(backend.renew(&lease).await?, Renewal::Renewed);
    assert_eq!(backend.list(&name[..20]).await?.locks.len(), 1);
    let holder = backend.inspect(&request.name).await?.expect("it is held");
    assert_eq!(backend.break_lock(&request.name, &holder.version.unwrap(), "test").await?, Break::Broken);
    assert!(matches!(backend.renew(&lease).await?, Renewal::Lost(_)));
    assert!(matches!(backend.release(&lease, Duration::ZERO).await?, Release::NotHeld(None)));
    let mut watch = watch.expect("Redis wakes");
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("a break wakes too");
    let AcquireOutcome::Granted(grant) = backend.acquire(&rival).await? else { panic!("it was broken") };
    assert_eq!(backend.release(&rival.lease(grant.token), Duration::ZERO).await?, Release::Released);
    Ok(())
}

/// Runs every operation on several holders once.
async fn use_modes(config: RedisConfig) -> Result<(), Error> {
    let backend = RedisBackend::new(config)?;
    let name = &format!("all/{}", LeaseId::random());
    let [first, second, third] = [(); 3].map(|()| request(name).with_mode(Mode::Shared));
    let writer = request(name).with_waits(true);
    let mut leases = Vec::new();
    for request in [&first, &second, &third] {
        let AcquireOutcome::Granted(grant) = backend.acquire(request).await? else { panic!("readers may join") };
        leases.push(request.lease(grant.token));
    }
    // A part that ends, and is cleared away by the next reader.
    let short = leases[1].clone().with_ttl(Duration::from_millis(1));
    while backend.renew(&short).await? == Renewal::Renewed {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(matches!(backend.acquire(&third).await?, AcquireOutcome::Granted(Grant { already_ours: true, .. })));
    assert!(matches!(backend.acquire(&second).await?, AcquireOutcome::Granted(_)));
    assert!(matches!(backend.acquire(&writer).await?, AcquireOutcome::Contended(_)));
    assert_eq!(backend.list(&name[..20]).await?.locks.len(), 1);
    assert!(matches!(backend.release(&writer.lease(None), Duration::ZERO).await?, Release::NotHeld(_)));
    let token = leases[0].token.and_then(|token| FencingToken::new(token.get() + 1_000_000_000));
    assert!(backend.advance_token(&leases[0], token.expect("below the largest")).await?);
    assert_eq!(backend.break_lock(&first.name, &first.id.to_string(), "test").await?, Break::Broken);
    assert_eq!(backend.release(&leases[1], Duration::from_millis(1)).await?, Release::Released);
    assert_eq!(backend.release(&leases[2], Duration::ZERO).await?, Release::Released);
    Ok(())
}

async fn kind(config: RedisConfig) -> ErrorKind {
    advice(config, "").await.0
}

/// Returns the kind of the error and whether a retry can help. Asserts that the error contains
/// `words`.
async fn advice(config: RedisConfig, words: &str) -> (ErrorKind, bool) {
    let error = use_all(config).await.unwrap_err();
    // A script that lacks a right at one of its commands may have acquired the lock before that.
    assert!(!error.is_ambiguous() || error.kind() == ErrorKind::PermissionDenied, "{error:?}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
    (error.kind(), error.is_retryable())
}

#[tokio::test]
async fn a_password_a_database_and_a_socket_work() {
    let server = RedisServer::with_args(&["--requirepass", "s3cret"]);
    use_all(tcp(&server).password("s3cret").database(3)).await.unwrap();
    use_all(RedisConfig::standalone(Address::Unix(server.socket())).password("s3cret")).await.unwrap();
    let socket = format!("redis+unix://{}?password=s3cret", server.socket().display());
    use_all(RedisConfig::from_url(&socket).unwrap()).await.unwrap();
    let denied = (ErrorKind::PermissionDenied, false);
    assert_eq!(advice(tcp(&server), "requires a password").await, denied, "NOAUTH");
    assert_eq!(advice(tcp(&server).password("s3cret-not"), "rejected this user").await, denied, "WRONGPASS");
    let number = advice(tcp(&server).password("s3cret").database(99), "no database with the configured number").await;
    assert_eq!(number, (ErrorKind::Config, false));
}

#[tokio::test]
async fn locks_need_no_more_than_the_documented_rules() {
    let server = RedisServer::start();
    use_all(as_user(&server, RULES)).await.unwrap();
    for missing in ["+mget", "+set", "+setrange", "+del", "+evalsha", "+pexpire", "~onelock:*"] {
        let told = advice(as_user_without(&server, missing), "the README of lock-redis lists the ACL rules").await;
        assert_eq!(told, (ErrorKind::PermissionDenied, false), "without {missing}");
    }
    assert!(include_str!("../../README.md").contains(&RULES.join(" ")), "the README has these rules");
}

#[tokio::test]
async fn command_denied_for_the_keys_of_a_lock_is_a_missing_right() {
    let server = RedisServer::start();
    for command in ["mget", "set", "setrange", "del", "pexpire"] {
        let only_elsewhere = [&*format!("-{command}"), &*format!("(+{command} ~elsewhere:*)")];
        let user = as_user(&server, &[RULES, &only_elsewhere].concat());
        let told = advice(user, "the README of lock-redis lists the ACL rules").await;
        assert_eq!(told, (ErrorKind::PermissionDenied, false), "{command}");
    }
}

#[tokio::test]
async fn shared_locks_need_no_more_than_their_rules() {
    let server = RedisServer::start();
    let with = |rules: &[&str]| as_user(&server, &[RULES, rules].concat());
    use_modes(with(MODE_RULES)).await.unwrap();
    for missing in MODE_RULES.iter().filter(|rule| **rule != "+zrevrange") {
        let fewer: Vec<_> = MODE_RULES.iter().copied().filter(|rule| rule != missing).collect();
        let error = use_modes(with(&fewer)).await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "without {missing}: {error}");
    }
    assert!(include_str!("../../README.md").contains(&MODE_RULES.join(" ")), "the README has these rules");
}

#[tokio::test]
// verifies: odd-entries
async fn a_key_that_may_not_be_read_hides_no_lock() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    for name in ["a", "m", "z"] {
        assert!(matches!(all.acquire(&request(name)).await.unwrap(), AcquireOutcome::Granted(_)));
    }
    let reader = |keys: &[&str]| {
        let rules: Vec<_> = RULES.iter().filter(|rule| **rule != "~onelock:*").chain(keys).copied().collect();
        RedisBackend::new(as_user(&server, &rules)).unwrap()
    };
    let listed = reader(&["~onelock:{a}*", "~onelock:{z}*"]).list("").await.unwrap();
    assert_eq!(listed.locks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "z"]);
    assert_eq!((listed.odd().len(), listed.odd()[0].place.as_str()), (1, "the key \"onelock:{m}\""));
    assert!(listed.odd()[0].reason.contains("lacks a permission"), "{}", listed.odd()[0].reason);
    // An answer without a single readable key would look like a store without locks.
    let error = reader(&["~elsewhere:*"]).list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn a_user_without_the_time_reads_locks_without_age() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    let held = request("job");
    assert!(matches!(all.acquire(&held).await.unwrap(), AcquireOutcome::Granted(_)));
    assert!(all.inspect(&held.name).await.unwrap().unwrap().held_for.is_some());
    let reader = RedisBackend::new(as_user_without(&server, "+time")).unwrap();
    let holder = reader.inspect(&held.name).await.unwrap().expect("it is held");
    assert!(holder.held_for.is_none() && holder.since.is_some(), "{holder}");
}

#[tokio::test]
async fn a_user_without_wake_up_rights_can_release() {
    let server = RedisServer::start();
    let waiter = RedisBackend::new(tcp(&server)).unwrap();
    for missing in ["+publish", "+zpopmin"] {
        let quiet = RedisBackend::new(as_user_without(&server, missing)).unwrap();
        let request = request("job");
        let AcquireOutcome::Granted(grant) = quiet.acquire(&request).await.unwrap() else { panic!("the lock is free") };
        let _watch = waiter.watch(&request.name).await.unwrap().expect("Redis wakes");
        let released = quiet.release(&request.lease(grant.token), Duration::ZERO).await;
        assert_eq!(released.unwrap(), Release::Released, "without {missing}");
    }
}

#[tokio::test]
async fn a_user_without_zrem_rights_can_acquire() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(as_user_without(&server, "+zrem")).unwrap();
    let (holder, waiter) = (request("job"), request("job"));
    let AcquireOutcome::Granted(grant) = backend.acquire(&holder).await.unwrap() else { panic!("the lock is free") };
    let _watch = backend.watch(&waiter.name).await.unwrap().expect("Redis wakes");
    assert!(matches!(backend.acquire(&waiter).await.unwrap(), AcquireOutcome::Contended(_)));
    // Without a release, whose wake-up would remove the process from the queue.
    let removed = server.command(&["DEL", "onelock:{job}"]);
    assert_eq!(removed, ":1\r\n");
    let attempt = backend.acquire(&waiter).await.unwrap();
    assert!(matches!(&attempt, AcquireOutcome::Granted(new) if new.token > grant.token), "{attempt:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_not_ambiguous() {
    let mut server = RedisServer::start();
    server.kill();
    assert_eq!(kind(tcp(&server)).await, ErrorKind::Unavailable);
    assert_eq!(
        kind(RedisConfig::standalone(Address::Unix("/nonexistent/redis.sock".into()))).await,
        ErrorKind::Unavailable
    );
}

#[tokio::test]
// verifies: redis-topology
async fn a_full_and_a_read_only_server_say_so() {
    let server = RedisServer::start();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(advice(tcp(&server), "has reached its maxmemory").await, (ErrorKind::Full, true), "OOM");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(advice(tcp(&server), "read-only replica").await, (ErrorKind::Full, true), "READONLY");
    server.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let masterdown = advice(tcp(&server), "a replica that has lost its primary").await;
    assert_eq!(masterdown, (ErrorKind::Unavailable, true), "MASTERDOWN");
}

#[tokio::test]
async fn locks_are_renewed_released_and_broken_on_a_full_server() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(tcp(&server)).unwrap();
    let waiter = RedisBackend::new(tcp(&server)).unwrap();
    let (held, broken, kept) = (request("held"), request("broken"), request("kept"));
    let mut leases = Vec::new();
    for request in [&held, &broken, &kept] {
        let AcquireOutcome::Granted(grant) = backend.acquire(request).await.unwrap() else {
            panic!("the lock is free")
        };
        leases.push(request.lease(grant.token));
    }
    let mut watch = waiter.watch(&held.name).await.unwrap().expect("Redis wakes");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(backend.renew(&leases[0]).await.unwrap(), Renewal::Renewed);
    let again = backend.acquire(&held).await.unwrap();
    assert!(matches!(again, AcquireOutcome::Granted(Grant { already_ours: true, .. })), "{again:?}");
    assert_eq!(backend.release(&leases[0], Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(backend.release(&leases[0], Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("a waiter is woken");
    let version = broken.id.to_string();
    assert_eq!(backend.break_lock(&broken.name, &version, "test").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&leases[1]).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("test".into())));
    let hold_for = Duration::from_millis(1);
    assert_eq!(backend.release(&leases[2], hold_for).await.unwrap(), Release::Released);
    assert_eq!(backend.acquire(&request("next")).await.unwrap_err().kind(), ErrorKind::Full);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    // The tokens and releases were recorded: tokens rise, and no holder is reported as crashed.
    for (lease, name) in leases.iter().zip(["held", "broken", "kept"]) {
        let mut grant = None;
        until("the minimum hold to end", async || match backend.acquire(&request(name)).await.unwrap() {
            AcquireOutcome::Granted(new) => grant.insert(new).token > lease.token,
            AcquireOutcome::Contended(_) => false,
        })
        .await;
        assert_eq!(grant.unwrap().crashed, None);
    }
}

#[test]
fn timeouts_out_of_range_are_refused() {
    for option in ["timeout", "connect_timeout"] {
        let config = |time| {
            let config = RedisConfig::standalone(Address::tcp("127.0.0.1", 1));
            if option == "timeout" { config.timeout(time) } else { config.connect_timeout(time) }
        };
        for time in [Duration::ZERO, Duration::MAX, Duration::from_secs(3601)] {
            let error = RedisBackend::new(config(time)).unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(option), "{error}");
        }
        RedisBackend::new(config(Duration::from_secs(3600))).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_cannot_save_says_so() {
    let server = RedisServer::start();
    // A directory takes the place of the file.
    std::fs::create_dir_all(server.socket().with_file_name("dump.rdb/x")).unwrap();
    for (option, value) in [("save", "3600 1"), ("stop-writes-on-bgsave-error", "yes")] {
        assert_eq!(server.command(&["CONFIG", "SET", option, value]), "+OK\r\n");
    }
    assert!(!server.command(&["BGSAVE"]).starts_with('-'));
    let failed = async || server.command(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err");
    until("the save to fail", failed).await;
    assert_eq!(advice(tcp(&server), "cannot save to disk").await, (ErrorKind::Full, true), "MISCONF");
}

#[tokio::test]
async fn a_server_that_misses_its_replicas_or_is_busy_says_so() {
    let server = RedisServer::start();
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(advice(tcp(&server), "min-replicas-to-write").await, (ErrorKind::Unavailable, true), "NOREPLICAS");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    server.command(&["CONFIG", "SET", "lua-time-limit", "1"]);
    let port = server.port();
    // Gets no reply before it is killed.
    let endless = std::thread::spawn(move || command(port, &["EVAL", "while true do end", "0"]));
    until("the server to be busy", async || server.command(&["PING"]).starts_with("-BUSY")).await;
    assert_eq!(advice(tcp(&server), "busy with a long script").await, (ErrorKind::Throttled, true), "BUSY");
    assert_eq!(server.command(&["SCRIPT", "KILL"]), "+OK\r\n");
    let _ = endless.join().unwrap();
    use_all(tcp(&server)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_loads_its_data_says_so() {
    let (primary, loading) = (RedisServer::start(), RedisServer::start());
    primary.command(&["EVAL", "for i = 1, 2000 do redis.call('SET', i, string.rep('x', 1000)) end", "0"]);
    for (option, value) in [("key-load-delay", "10000"), ("loading-process-events-interval-bytes", "1024")] {
        assert_eq!(loading.command(&["CONFIG", "SET", option, value]), "+OK\r\n");
    }
    loading.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    until("the load to begin", async || loading.command(&["GET", "1"]).starts_with("-LOADING")).await;
    assert_eq!(advice(tcp(&loading), "still loading").await, (ErrorKind::Unavailable, true), "LOADING");
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let config = RedisConfig::standalone(Address::tcp("h", 1)).login("ann", "s3cret").sentinel_login(None, "s3cret");
    let backend = RedisBackend::new(config.clone()).unwrap();
    for shown in [format!("{config:?}"), config.to_string(), format!("{backend:?}"), backend.describe()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    assert_eq!(backend.describe(), "redis://h:1");
}

#[tokio::test]
// verifies: P3
async fn a_user_who_may_not_read_the_new_holders_learns_of_the_loss() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(as_user(&server, RULES)).unwrap();
    let (lease, _) = fixture::granted(&backend, &request("job")).await;
    server.command(&["DEL", "onelock:{job}"]);
    let other = RedisBackend::new(tcp(&server)).unwrap();
    fixture::granted(&other, &fixture::reader("job")).await;
    assert!(matches!(backend.renew(&lease).await, Ok(Renewal::Lost(_))));
}
