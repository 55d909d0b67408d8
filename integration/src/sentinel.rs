//! A primary with replicas, watched by sentinels.

use std::fs;

use tempfile::TempDir;

use crate::{
    Daemon, free_port,
    redis::{RedisServer, command, wait_for},
};

/// A primary, a replica, and three sentinels of which two decide.
#[derive(Debug)]
pub struct SentinelSetup {
    /// The first primary, then the replica.
    pub servers: Vec<RedisServer>,
    sentinels: Vec<(Daemon, u16)>,
    _dir: TempDir,
}

impl SentinelSetup {
    /// What the sentinels call the primary.
    pub const SERVICE: &str = "locks";

    /// Starts everything and waits until the replica follows and the sentinels know of it and of each other.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start() -> Self {
        let primary = RedisServer::start();
        let port = primary.port().to_string();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &port]);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let sentinels = (0..3).map(|n| sentinel(&dir, n, &port)).collect();
        let setup = Self { servers: vec![primary, replica], sentinels, _dir: dir };
        let follows = || setup.servers[1].command(&["INFO", "replication"]).contains("master_link_status:up");
        assert!(wait_for("the replica to follow", follows), "no replication");
        let knows = |&port: &u16| {
            let answer = command(port, &["SENTINEL", "MASTER", Self::SERVICE]).unwrap_or_default();
            let field = |name: &str| answer.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
            field("num-slaves").as_deref() == Some("1") && field("num-other-sentinels").as_deref() == Some("2")
        };
        assert!(wait_for("the sentinels to meet", || setup.ports().iter().all(knows)), "no sentinels");
        setup
    }

    /// The ports of the sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|(_, port)| *port).collect()
    }

    /// Waits until the sentinels name `port` as the primary.
    ///
    /// # Panics
    /// When they do not.
    pub fn wait_for_primary(&self, port: u16) {
        let port = port.to_string();
        let named = |sentinel: &u16| {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE];
            command(*sentinel, &ask).is_ok_and(|answer| answer.lines().any(|line| line == port))
        };
        assert!(wait_for("the failover", || self.ports().iter().all(named)), "no failover");
    }
}

fn sentinel(dir: &TempDir, number: u32, primary: &str) -> (Daemon, u16) {
    let (port, service) = (free_port(), SentinelSetup::SERVICE);
    let path = dir.path().join(format!("sentinel-{number}.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {dir}\nlogfile {dir}/sentinel-{number}.log\n\
         sentinel monitor {service} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {service} 500\n\
         sentinel failover-timeout {service} 3000\n",
        dir = dir.path().display(),
    );
    fs::write(&path, text).expect("the directory is ours");
    let args = [path.to_str().expect("a plain path").to_owned(), "--sentinel".into()];
    let daemon = Daemon::start("redis-server", "redis-server", &args);
    assert!(wait_for("a sentinel", || command(port, &["PING"]).is_ok()), "no sentinel");
    (daemon, port)
}
