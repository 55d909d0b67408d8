//! A primary with replicas, watched by sentinels.

use std::fs;

use crate::{
    Daemon, Scratch, free_port,
    redis::{RedisServer, command, program},
    tls::Certificates,
    wait_for,
};

/// A primary, a replica, and three sentinels of which two decide.
#[derive(Debug)]
pub struct SentinelSetup {
    /// The first primary, then the replica.
    pub servers: Vec<RedisServer>,
    /// The sentinels.
    pub sentinels: Vec<Sentinel>,
}

/// A `redis-server` that watches others.
#[derive(Debug)]
pub struct Sentinel {
    daemon: Daemon,
    port: u16,
    tls_port: Option<u16>,
    password: Option<&'static str>,
    _dir: Scratch,
}

impl SentinelSetup {
    /// What the sentinels call the primary.
    pub const SERVICE: &str = "locks";

    /// Starts everything and waits until the replica follows and the sentinels know of it and of
    /// each other.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start() -> Self {
        let primary = RedisServer::start();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        let lines = watching("127.0.0.1", primary.port(), 2, 500);
        Self::met(vec![primary, replica], || Sentinel::start(&lines, None))
    }

    /// The same where clients log in to the sentinels, as `default` with this password, and the
    /// sentinels to each other.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with_password(password: &'static str) -> Self {
        let primary = RedisServer::start();
        let replica = RedisServer::with_args(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        let lines = format!(
            "requirepass {password}\nsentinel sentinel-pass {password}\n{}",
            watching("127.0.0.1", primary.port(), 2, 500)
        );
        Self::met(vec![primary, replica], || Sentinel::start(&lines, Some(password)))
    }

    /// The same where everybody talks TLS, under the name `localhost`.
    ///
    /// # Panics
    /// When it does not come up.
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

    /// The ports of the sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Sentinel::port).collect()
    }

    /// Waits until the sentinels name `port` as the primary.
    ///
    /// # Panics
    /// When they do not.
    pub fn wait_for_primary(&self, port: u16) {
        let port = port.to_string();
        let named = |sentinel: &Sentinel| {
            let answer = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE]);
            answer.lines().any(|line| line == port)
        };
        assert!(wait_for("the failover", || self.sentinels.iter().all(named)), "no failover");
    }
}

/// The lines that make a sentinel watch a primary, which `quorum` of them call dead after this
/// time.
fn watching(host: &str, port: u16, quorum: usize, dead_after_ms: u32) -> String {
    let service = SentinelSetup::SERVICE;
    format!(
        "sentinel monitor {service} {host} {port} {quorum}\n\
         sentinel down-after-milliseconds {service} {dead_after_ms}\n\
         sentinel failover-timeout {service} 3000\n"
    )
}

impl Sentinel {
    /// One alone that names the server at this port as the primary, whatever it does.
    ///
    /// # Panics
    /// When it does not start.
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
            // Free ports are not reserved: somebody else may have bound one by now, for a
            // connection of theirs too.
            let is_taken = || log().contains("Failed listening on port");
            let up = wait_for("a sentinel", || is_taken() || command(port, &["PING"]).is_ok());
            if is_taken() {
                continue;
            }
            assert!(up, "{}", log());
            return Self { daemon, port, tls_port, password, _dir: dir };
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for TLS, on `localhost`.
    ///
    /// # Panics
    /// When it was started without.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("the sentinel was started with TLS")
    }

    /// The process.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Asks it something; nothing when it does not answer.
    pub fn command(&self, args: &[&str]) -> String {
        crate::redis::command_as(self.port, self.password, args).unwrap_or_default()
    }
}
