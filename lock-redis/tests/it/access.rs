//! Login, databases, the unix socket, what a server refuses, and secrets in messages.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Grant, LeaseId, Release, Renewal},
};
use lock_redis::{Address, RedisBackend, RedisConfig};
use test_support::{
    redis::{RedisServer, command},
    until,
};

use crate::fixture;

pub(crate) fn tcp(server: &RedisServer) -> RedisConfig {
    RedisConfig::standalone(Address::tcp("127.0.0.1", server.port()))
}

pub(crate) fn request(name: &str) -> AcquireRequest {
    fixture::request(name, Duration::from_secs(60))
}

/// Runs every operation once.
pub(crate) async fn use_all(config: RedisConfig) -> Result<(), Error> {
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

async fn kind(config: RedisConfig) -> ErrorKind {
    advice(config, "").await.0
}

/// Returns the kind of the error and whether a retry can help. Asserts that the error contains
/// `words`.
pub(crate) async fn advice(config: RedisConfig, words: &str) -> (ErrorKind, bool) {
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
