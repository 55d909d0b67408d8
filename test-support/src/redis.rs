//! Real Redis servers and clusters on free ports.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Daemon, Proxy, Scratch, callgrind, free_port, tls::Certificates, wait_for};

/// A `redis-server` that stores nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    // Before the directory: fields drop in order, and the server must end before its directory.
    daemon: Option<Daemon>,
    dir: Scratch,
    ports: Ports,
    args: Vec<String>,
    /// Where valgrind says how many instructions the server ran.
    instructions: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    tls: Option<u16>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    /// Starts a server with further arguments, such as `&["--requirepass", "x"]`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn with_args(args: &[&str]) -> Self {
        Self::launched(args.iter().map(ToString::to_string).collect(), false, false, None)
    }

    /// Starts a server under valgrind, which writes to `log` how many instructions the server ran,
    /// once [`SHUTDOWN`](Self::command) has ended it.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn counting_instructions(log: PathBuf) -> Self {
        // A server that waits counts as little as possible.
        Self::launched(vec!["--hz".into(), "1".into()], false, false, Some(log))
    }

    /// Starts a server that also listens with TLS, on [`tls_port`](Self::tls_port), and requires a
    /// certificate of each client.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn with_tls(certificates: &Certificates, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string);
        Self::launched(certificates.redis_args().into_iter().chain(args).collect(), true, false, None)
    }

    fn launched(args: Vec<String>, tls: bool, cluster: bool, instructions: Option<PathBuf>) -> Self {
        let ports = Ports::free(tls, cluster);
        let mut server = Self { ports, dir: Scratch::new(), args, daemon: None, instructions };
        // Another test may have taken a port. Then this server ends immediately, and other ports
        // are tried.
        for _ in 0..20 {
            if server.launch() {
                return server;
            }
            eprintln!("{}", std::fs::read_to_string(server.dir.path().join("redis.log")).unwrap_or_default());
            server.ports = Ports::free(tls, cluster);
        }
        panic!("{} does not start; see its output above", program());
    }

    fn launch(&mut self) -> bool {
        let dir = self.dir.text();
        let socket = format!("{dir}/redis.sock");
        let _ = std::fs::remove_file(&socket);
        let mut args: Vec<String> = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"].map(Into::into).into();
        // Clients of a TLS port connect to "localhost", and sentinels use its first address.
        args.extend(self.ports.tls.map(|_| "-::1".into()));
        args.extend(["--dir".into(), dir.into(), "--unixsocket".into(), socket.clone()]);
        args.extend(["--logfile".into(), format!("{dir}/redis.log"), "--repl-diskless-sync-delay".into(), "0".into()]);
        let Ports { plain, tls } = self.ports;
        for (option, port) in [("--port", Some(plain)), ("--tls-port", tls)] {
            args.extend(port.into_iter().flat_map(|port| [option.into(), port.to_string()]));
        }
        args.extend(self.args.iter().cloned());
        self.daemon = Some(match &self.instructions {
            None => Daemon::start(&program(), "redis-server", &args),
            Some(log) => {
                Daemon::start("valgrind", "valgrind", &[callgrind::arguments(log), vec![program()], args].concat())
            }
        });
        // Another program may have the port. This server makes its socket once it has its ports.
        let is_ours = || Path::new(&socket).exists();
        // A server that requires a password answers too, with an error.
        wait_for("the server to answer", || is_ours() && answers(plain) || !self.runs()) && self.runs()
    }

    fn runs(&self) -> bool {
        self.daemon.as_ref().is_some_and(Daemon::runs)
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports.plain
    }

    /// Returns the port for TLS, on `localhost`.
    ///
    /// # Panics
    /// If the server was started without TLS.
    pub fn tls_port(&self) -> u16 {
        self.ports.tls.expect("the server was started with TLS")
    }

    /// Returns the address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    /// Returns the path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Returns the process.
    ///
    /// # Panics
    /// If the server was killed.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the server was not killed")
    }

    /// Kills the server; all its data is lost.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Starts the server again on the same port, without data.
    ///
    /// # Panics
    /// If the server does not start, or was not killed.
    pub fn restart(&mut self) {
        assert!(self.daemon.is_none(), "kill it first");
        assert!(self.launch(), "redis-server does not start again");
    }

    /// Runs one command on a new connection, and returns the raw reply.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn command(&self, args: &[&str]) -> String {
        command(self.port(), args).expect("the server answers")
    }
}

impl Ports {
    fn free(tls: bool, cluster: bool) -> Self {
        loop {
            let ports = Self { plain: free_port(), tls: tls.then(free_port) };
            if !cluster || ports.bus().is_some() {
                return ports;
            }
        }
    }

    /// The port on which the nodes of a cluster talk to each other. Redis 6 always derives it from
    /// the port for clients.
    fn bus(self) -> Option<u16> {
        self.tls.unwrap_or(self.plain).checked_add(10_000)
    }
}

/// Returns the server program that the tests run against. `ONELOCK_TEST_REDIS_SERVER` names another
/// one, such as an older Redis or Valkey.
pub(crate) fn program() -> String {
    std::env::var("ONELOCK_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// A Redis Cluster of three primaries.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the nodes, assigns the slots, and waits until all nodes agree.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn start() -> Self {
        Self::launched(0, None)
    }

    /// Starts a cluster with a replica for each primary.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_replicas() -> Self {
        Self::launched(1, None)
    }

    /// Starts a cluster in which nodes and clients use TLS, under the name `localhost`.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_tls(certificates: &Certificates) -> Self {
        Self::launched(0, Some(certificates))
    }

    fn launched(replicas: usize, certificates: Option<&Certificates>) -> Self {
        // Full coverage is not required, because one dead primary would stop the others too.
        let args = "--cluster-enabled yes --cluster-node-timeout 2000 --cluster-require-full-coverage no";
        let mut args: Vec<String> = args.split(' ').map(Into::into).collect();
        if let Some(certificates) = certificates {
            args.extend(certificates.redis_args());
            let tls = "--tls-cluster yes --tls-replication yes --cluster-announce-hostname localhost \
                       --cluster-preferred-endpoint-type hostname";
            args.extend(tls.split_whitespace().map(Into::into));
        }
        let start = |_| RedisServer::launched(args.clone(), certificates.is_some(), true, None);
        let nodes: Vec<_> = (0..3).map(start).collect();
        let followers: Vec<_> = (0..3 * replicas).map(start).collect();
        for (node, (first, last)) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            let slots: Vec<_> = (first..=last).map(|slot| slot.to_string()).collect();
            let slots = slots.iter().map(String::as_str);
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTS"].into_iter().chain(slots).collect::<Vec<_>>()), "+OK\r\n");
        }
        for node in nodes.iter().chain(&followers) {
            let port = node.ports.tls.unwrap_or(node.ports.plain).to_string();
            assert_eq!(nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port]), "+OK\r\n");
        }
        let cluster = Self { nodes, replicas: followers };
        cluster.wait_until_agreed();
        for (replica, primary) in cluster.replicas.iter().zip([0, 1, 2].into_iter().cycle()) {
            let follow = || replica.command(&["CLUSTER", "REPLICATE", &cluster.id(primary)]) == "+OK\r\n";
            assert!(wait_for("a replica to know its primary", follow), "no replica");
        }
        let streams = |node: &RedisServer| node.command(&["INFO", "replication"]).contains("master_link_status:up");
        assert!(wait_for("the replicas to follow", || cluster.replicas.iter().all(streams)), "no replication");
        cluster
    }

    fn wait_until_agreed(&self) {
        let nodes = || self.nodes.iter().chain(&self.replicas);
        let known = format!("cluster_known_nodes:{}\r", nodes().count());
        let agreed = |node: &RedisServer| {
            let info = node.command(&["CLUSTER", "INFO"]);
            ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_size:3", &known]
                .iter()
                .all(|line| info.contains(line))
        };
        // A node that knows another one may not be connected to it yet. A message that it publishes
        // then does not reach the other node.
        let linked = |node: &RedisServer| {
            let table = node.command(&["CLUSTER", "NODES"]);
            table.matches(" connected").count() == nodes().count()
        };
        assert!(wait_for("the cluster to agree", || nodes().all(|node| agreed(node) && linked(node))), "no cluster");
    }

    /// Starts a proxy for each node, and makes the nodes announce the proxies to clients.
    ///
    /// # Panics
    /// If the nodes do not agree on the announced ports.
    pub async fn behind_proxies(&self) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for node in &self.nodes {
            let proxy = Proxy::start(node.addr()).await;
            let port = proxy.addr().port().to_string();
            assert_eq!(node.command(&["CONFIG", "SET", "cluster-announce-port", &port]), "+OK\r\n");
            proxies.push(proxy);
        }
        let told = |node: &RedisServer| {
            let slots = node.command(&["CLUSTER", "SLOTS"]);
            proxies.iter().all(|proxy| slots.contains(&format!(":{}\r\n", proxy.addr().port())))
        };
        assert!(wait_for("the nodes to tell each other", || self.nodes.iter().all(told)), "not announced");
        proxies
    }

    /// Returns the slot of `key`.
    ///
    /// # Panics
    /// If the first node does not answer.
    pub fn slot(&self, key: &str) -> u16 {
        let reply = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]);
        reply.trim().trim_start_matches(':').parse().expect("a slot")
    }

    /// Returns the index of the node that has `slot` at the start.
    pub fn node_of(slot: u16) -> usize {
        usize::from(slot) / 5462
    }

    /// Returns the replicas, in the order of their primaries.
    pub fn replicas(&self) -> &[RedisServer] {
        &self.replicas
    }

    /// Returns the primaries. Each has a third of the slots, in order.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Kills a node; all its data is lost.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Returns the id of a node.
    ///
    /// # Panics
    /// If the node does not answer.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"]).lines().nth(1).expect("an id").to_owned()
    }
}

/// Runs one command on the server at `port` of 127.0.0.1, and returns the raw reply.
///
/// # Errors
/// If the server does not answer within a second.
pub fn command(port: u16, args: &[&str]) -> std::io::Result<String> {
    command_as(port, None, args)
}

pub(crate) fn command_as(port: u16, password: Option<&str>, args: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    if let Some(password) = password {
        reply_to(&mut stream, &["AUTH", password])?;
    }
    reply_to(&mut stream, args)
}

fn reply_to(stream: &mut TcpStream, args: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", args.len());
    for arg in args {
        request += &format!("${}\r\n{arg}\r\n", arg.len());
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    while rest_of_reply(&reply).is_none() {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => reply.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Returns the bytes after the first reply in `bytes`; `None` while the reply is not complete.
fn rest_of_reply(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, mut rest) = (&bytes[..end], &bytes[end + 2..]);
    let number = || std::str::from_utf8(&line[1..]).ok()?.parse::<i64>().ok();
    match line.first()? {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => rest.get(length + 2..),
            Err(_) => Some(rest),
        },
        b'*' => {
            for _ in 0..number()?.max(0) {
                rest = rest_of_reply(rest)?;
            }
            Some(rest)
        }
        _ => Some(rest),
    }
}

fn answers(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)) else {
        return false;
    };
    let _ = stream.shutdown(Shutdown::Both);
    command(port, &["PING"]).is_ok_and(|reply| !reply.starts_with("-LOADING"))
}
