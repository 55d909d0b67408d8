//! A primary with a replica, monitored by sentinels.

use std::fs;

use crate::{
    Daemon, Scratch, free_port,
    redis::{RedisServer, command, program},
    tls::Certificates,
    wait_for,
};

/// A primary, a replica, and three sentinels with a quorum of two.
#[derive(Debug)]
pub struct SentinelSetup {
    /// The initial primary, then the replica.
    pub servers: Vec<RedisServer>,
    /// The sentinels.
    pub sentinels: Vec<Sentinel>,
}

/// A `redis-server` that monitors others.
#[derive(Debug)]
pub struct Sentinel {
    daemon: Daemon,
    port: u16,
    tls_port: Option<u16>,
    password: Option<&'static str>,
    _dir: Scratch,
}

impl SentinelSetup {
    /// The name of the primary at the sentinels.
    pub const SERVICE: &str = "locks";

    /// Starts the servers, and waits until the replica follows and the sentinels know all others.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn start() -> Self {
        let primary = RedisServer::start();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        let lines = watching("127.0.0.1", primary.port(), 2, 500);
        Self::met(vec![primary, replica], || Sentinel::start(&lines, None))
    }

    /// Starts servers whose sentinels require a password, of clients (as `default`) and of each
    /// other.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_password(password: &'static str) -> Self {
        let primary = RedisServer::start();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        let lines = format!(
            "requirepass {password}\nsentinel sentinel-pass {password}\n{}",
            watching("127.0.0.1", primary.port(), 2, 500)
        );
        Self::met(vec![primary, replica], || Sentinel::start(&lines, Some(password)))
    }

    /// Starts servers of which all connections use TLS, under the name `localhost`.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_tls(certificates: &Certificates) -> Self {
        let tls = ["--tls-replication", "yes"];
        let primary = RedisServer::with_tls(certificates, &tls);
        let follow = ["--replicaof", "localhost", &primary.tls_port().to_string()];
        let replica = RedisServer::with_tls(certificates, &[&tls[..], &follow].concat());
        let files: Vec<_> = certificates.redis_args().chunks(2).map(|pair| pair.join(" ")).collect();
        let lines = format!(
            "{}\ntls-replication yes\nsentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n\
             sentinel announce-ip localhost\n{}",
            files.join("\n").replace("--", ""),
            watching("localhost", primary.tls_port(), 2, 500)
        );
        Self::met(vec![primary, replica], || Sentinel::start(&lines, None))
    }

    fn met(servers: Vec<RedisServer>, sentinel: impl Fn() -> Sentinel) -> Self {
        let setup = Self { servers, sentinels: (0..3).map(|_| sentinel()).collect() };
        let follows = || setup.servers[1].command(&["INFO", "replication"]).contains("master_link_status:up");
        assert!(wait_for("the replica to follow", follows), "no replication");
        let knows = |sentinel: &Sentinel| {
            let answer = sentinel.command(&["SENTINEL", "MASTER", Self::SERVICE]);
            let field = |name: &str| answer.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
            field("num-slaves").as_deref() == Some("1") && field("num-other-sentinels").as_deref() == Some("2")
        };
        assert!(wait_for("the sentinels to meet", || setup.sentinels.iter().all(knows)), "no sentinels");
        setup
    }

    /// Returns the ports of the sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Sentinel::port).collect()
    }

    /// Waits until the sentinels name `port` as the primary.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_for_primary(&self, port: u16) {
        let port = port.to_string();
        let named = |sentinel: &Sentinel| {
            let answer = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE]);
            answer.lines().any(|line| line == port)
        };
        assert!(wait_for("the failover", || self.sentinels.iter().all(named)), "no failover");
    }
}

/// Returns the configuration of a sentinel that monitors a primary. After `dead_after_ms` the
/// primary is dead if `quorum` sentinels agree.
fn watching(host: &str, port: u16, quorum: usize, dead_after_ms: u32) -> String {
    let service = SentinelSetup::SERVICE;
    format!(
        "sentinel monitor {service} {host} {port} {quorum}\n\
         sentinel down-after-milliseconds {service} {dead_after_ms}\n\
         sentinel failover-timeout {service} 3000\n"
    )
}

impl Sentinel {
    /// Starts a single sentinel that always names the server at `port` as the primary.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn naming(port: u16) -> Self {
        Self::start(&watching("127.0.0.1", port, 1, 600_000), None)
    }

    fn start(lines: &str, password: Option<&'static str>) -> Self {
        loop {
            let (port, dir) = (free_port(), Scratch::new());
            let tls_port = lines.contains("tls-cert-file").then(free_port);
            let (path, log) = (dir.path().join("sentinel.conf"), dir.path().join("sentinel.log"));
            let text = format!(
                "port {port}\nbind 127.0.0.1{tls}\ndir {dir}\nlogfile {dir}/sentinel.log\n{lines}",
                tls = tls_port.map(|port| format!(" -::1\ntls-port {port}")).unwrap_or_default(),
                dir = dir.text()
            );
            fs::write(&path, text).expect("the directory is ours");
            let args = [path.display().to_string(), "--sentinel".into()];
            let daemon = Daemon::start(&program(), "redis-server", &args);
            let log = || fs::read_to_string(&log).unwrap_or_default();
            // Free ports are not reserved: another process may have bound one meanwhile, even for
            // an outgoing connection.
            let is_taken = || log().contains("Failed listening on port");
            let up = wait_for("a sentinel", || is_taken() || command(port, &["PING"]).is_ok());
            if is_taken() {
                continue;
            }
            assert!(up, "{}", log());
            return Self { daemon, port, tls_port, password, _dir: dir };
        }
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the port for TLS, on `localhost`.
    ///
    /// # Panics
    /// If the sentinel was started without TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("the sentinel was started with TLS")
    }

    /// Returns the process.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Runs a command, and returns the reply. The reply is empty if the sentinel does not answer.
    pub fn command(&self, args: &[&str]) -> String {
        crate::redis::command_as(self.port, self.password, args).unwrap_or_default()
    }
}
