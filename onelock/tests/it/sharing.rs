//! How two processes with `hand_over` share a lock, on every store whose waiters have no order.

use onelock::postgres::{PostgresBackend, PostgresConfig};
use test_support::{
    dynamodb::DynamoDbLocal,
    hand_over::assert_two_processes_share,
    object_stores::ObjectStoreServer,
    postgres::PostgresServer,
    redis::{RedisCluster, RedisServer},
    wait_for,
};

async fn open(store: &str) -> onelock::Locker {
    onelock::open(store).await.unwrap()
}

fn postgres() -> (PostgresServer, String) {
    let server = PostgresServer::start();
    let backend = PostgresBackend::new(PostgresConfig::from_url(&server.url()).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(backend.init()).unwrap();
    let store = server.url();
    (server, store)
}

#[test]
// verifies: contention
fn two_processes_share_a_lock_on_postgres() {
    assert_two_processes_share("sharing::two_processes_share_a_lock_on_postgres", postgres, open);
}

/// Returns a config string for the servers, whose scheme begins with `redis`.
fn redis(scheme: &str, servers: &[RedisServer]) -> String {
    let addresses: Vec<_> = servers.iter().map(|server| server.addr().to_string()).collect();
    format!("{scheme}://{}", addresses.join(","))
}

#[test]
fn two_processes_share_a_lock_on_redis() {
    let start = || {
        let server = RedisServer::start();
        let store = redis("redis", std::slice::from_ref(&server));
        (server, store)
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_on_redis", start, open);
}

#[test]
fn two_processes_share_a_lock_on_a_cluster() {
    let start = || {
        let cluster = RedisCluster::start();
        let store = redis("redis+cluster", cluster.nodes());
        (cluster, store)
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_on_a_cluster", start, open);
}

#[test]
fn two_processes_share_a_lock_on_a_quorum() {
    let start = || {
        let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
        let store = redis("redis+quorum", &servers);
        (servers, store)
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_on_a_quorum", start, open);
}

#[test]
fn two_processes_share_a_lock_on_replicas() {
    let start = || {
        let primary = RedisServer::start();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        let follows = || replica.command(&["INFO", "replication"]).contains("master_link_status:up");
        assert!(wait_for("the replica", follows));
        let store = redis("redis", std::slice::from_ref(&primary)) + "?replicas=1";
        ((primary, replica), store)
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_on_replicas", start, open);
}

fn shared_with(client: &str) -> (RedisServer, String) {
    let server = RedisServer::start();
    let store = redis("redis", std::slice::from_ref(&server)) + "?compat=" + client;
    (server, store)
}

#[test]
fn two_processes_share_a_lock_of_redis_py() {
    let start = || shared_with("redis-py");
    assert_two_processes_share("sharing::two_processes_share_a_lock_of_redis_py", start, open);
}

#[test]
fn two_processes_share_a_lock_of_python_redis_lock() {
    let start = || shared_with("python-redis-lock");
    assert_two_processes_share("sharing::two_processes_share_a_lock_of_python_redis_lock", start, open);
}

/// This test shows that neither process starves. It cannot show that a process stands back after
/// its series of hand-overs, because processes share a lock file even if neither does. The kernel
/// wakes the waiter of the other process at once, and the next waiter of this one opens the file
/// anew. `processes_take_turns_after_each_series` of `lock-core` shows that rule.
#[test]
// verifies: contention
fn two_processes_share_a_lock_file() {
    let start = || {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("file://{}", directory.path().display());
        (directory, store)
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_file", start, open);
}

#[test]
// verifies: contention
fn two_processes_share_a_lock_in_dynamodb() {
    let start = || {
        let (server, table) = (DynamoDbLocal::shared(), format!("sharing-{}", std::process::id()));
        server.create_table(&table);
        (server, format!("dynamodb://{table}?endpoint={}&region=eu-west-1", server.endpoint()))
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_in_dynamodb", start, open);
}

#[test]
// verifies: contention
fn two_processes_share_a_lock_object() {
    let start = || {
        let (server, bucket) = (ObjectStoreServer::seaweedfs(), format!("sharing-{}", std::process::id()));
        server.create_bucket(&bucket);
        (
            server,
            format!("s3://{bucket}?endpoint={}&anonymous=true&skew=0s&poll_min=50ms&poll_max=200ms", server.endpoint()),
        )
    };
    assert_two_processes_share("sharing::two_processes_share_a_lock_object", start, open);
}
