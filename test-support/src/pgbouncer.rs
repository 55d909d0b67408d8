//! A real PgBouncer.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
};

use crate::{
    Daemon, Scratch, free_port,
    postgres::{PostgresServer, as_other_user, give_away},
    wait_for,
};

/// A running PgBouncer before a server, in transaction mode.
#[derive(Debug)]
pub struct PgBouncer {
    _daemon: Daemon,
    _dir: Scratch,
    port: u16,
}

impl PgBouncer {
    /// Starts one with few connections to the server, so that clients share them, and waits until
    /// it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(server: &PostgresServer) -> Self {
        Self::for_clients(server, 500)
    }

    /// Starts one like [`start`](Self::start) that takes at most so many clients.
    ///
    /// # Panics
    /// If it does not start.
    pub fn for_clients(server: &PostgresServer, clients: u32) -> Self {
        let dir = Scratch::new();
        give_away(dir.text());
        for _ in 0..5 {
            let port = free_port();
            let file = format!("{}/pgbouncer.ini", dir.text());
            let database = format!("host=127.0.0.1 port={} user=onelock", server.port());
            let settings = format!(
                "[databases]\n* = {database}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n\
                 max_client_conn = {clients}\n"
            );
            fs::write(&file, settings).expect("the directory is ours");
            let program =
                ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).exists());
            let program = program.expect("PgBouncer is not installed; this test needs it: apt-get install pgbouncer");
            let command = as_other_user(program, &["-q".into(), file]);
            let daemon = Daemon::start(&command[0], "pgbouncer", &command[1..]);
            let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
            // Another test may have taken the port.
            if wait_for("PgBouncer to answer", || answers() || !daemon.runs()) && daemon.runs() {
                return Self { _daemon: daemon, _dir: dir, port };
            }
        }
        panic!("PgBouncer does not start; see its output above");
    }

    /// Returns the address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}
