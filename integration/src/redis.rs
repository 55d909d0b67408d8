//! Real Redis servers on free ports.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Daemon, free_port};

/// A `redis-server` that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    dir: TempDir,
    args: Vec<String>,
    daemon: Option<Daemon>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    /// Starts a server with further arguments, as on the command line: `&["--requirepass", "x"]`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_args(args: &[&str]) -> Self {
        let mut args = args.iter().map(ToString::to_string).collect();
        let mut dir = tempfile::tempdir().expect("a temporary directory");
        // Another test may take a free port first; then this server ends at once, and another port is tried.
        for _ in 0..20 {
            let port = free_port();
            let mut server = Self { port, dir, args, daemon: None };
            if server.launch() {
                return server;
            }
            eprintln!("{}", std::fs::read_to_string(server.dir.path().join("redis.log")).unwrap_or_default());
            (dir, args) = (server.dir, server.args);
        }
        panic!("redis-server does not start; see its output above");
    }

    fn launch(&mut self) -> bool {
        let dir = self.dir.path().to_str().expect("temporary directories have plain names");
        let mut args: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(Into::into).into();
        args.extend(["--dir".into(), dir.into(), "--unixsocket".into(), format!("{dir}/redis.sock")]);
        args.extend(["--logfile".into(), format!("{dir}/redis.log"), "--repl-diskless-sync-delay".into(), "0".into()]);
        args.extend(["--port".into(), self.port.to_string()]);
        args.extend(self.args.iter().cloned());
        self.daemon = Some(Daemon::start("redis-server", "redis-server", &args));
        // A server that wants a password answers as well, if with an error.
        wait_for("the server to answer", || answers(self.port) || !self.runs()) && self.runs()
    }

    fn runs(&self) -> bool {
        self.daemon.as_ref().is_some_and(Daemon::runs)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// The process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the server was not killed")
    }

    /// Kills it; everything in it is lost.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// When it does not start, or was not killed.
    pub fn restart(&mut self) {
        assert!(self.daemon.is_none(), "kill it first");
        assert!(self.launch(), "redis-server does not start again");
    }

    /// Runs one command on a connection of its own and returns the reply as the server sent it.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn command(&self, args: &[&str]) -> String {
        command(self.port, args).expect("the server answers")
    }
}

/// A Redis Cluster of three primaries.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the nodes, shares the slots out, and waits until all agree.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start() -> Self {
        let start = |port: u16| {
            let port = port.to_string();
            let args = ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", "2000"];
            // Without this, one dead primary stops the others too.
            RedisServer::with_args(&[&args[..], &["--cluster-require-full-coverage", "no"]].concat())
        };
        let buses: Vec<_> = (0..3).map(|_| free_port()).collect();
        let nodes: Vec<_> = buses.iter().map(|&port| start(port)).collect();
        for ((node, bus), (first, last)) in nodes.iter().zip(&buses).zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            let (first, last) = (first.to_string(), last.to_string());
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]), "+OK\r\n");
            let (port, bus) = (node.port().to_string(), bus.to_string());
            assert_eq!(nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), "+OK\r\n");
        }
        let cluster = Self { nodes };
        let agreed = |node: &RedisServer| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && info.contains("cluster_size:3")
        };
        assert!(wait_for("the cluster to agree", || cluster.nodes.iter().all(agreed)), "no cluster");
        cluster
    }

    /// Its nodes: the slots are shared out in order, a third each.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The id of a node.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"]).lines().nth(1).expect("an id").to_owned()
    }
}

/// Runs one command on the server at `port` of 127.0.0.1 and returns its raw reply.
///
/// # Errors
/// When the server does not answer within a second.
pub fn command(port: u16, args: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
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

/// What follows the first reply in `bytes`; `None` while that is not complete.
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

/// Asks again and again until `condition` holds, for at most 30 s. Says whether it does.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    eprintln!("waited 30 s for {what}");
    false
}
