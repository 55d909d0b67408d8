//! Real PostgreSQL servers.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Daemon, Scratch, free_port, target_directory, tls::Certificates, wait_for};

/// A running server on the loopback interface with an empty database, which needs no password.
#[derive(Debug)]
pub struct PostgresServer {
    // Before the directory: fields drop in order, and the server must end before its directory.
    daemon: Option<Daemon>,
    dir: Scratch,
    port: u16,
    settings: Vec<String>,
}

impl PostgresServer {
    /// Starts a server in a temporary directory, and waits until it answers.
    ///
    /// If the test runs as root, the user `postgres` does all this, because the server refuses
    /// root.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start() -> Self {
        Self::with_settings(&[])
    }

    /// Starts a server with these settings, such as `&["synchronous_commit=off"]`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn with_settings(settings: &[&str]) -> Self {
        let mut server = Self::without_data(settings);
        run(&["cp".into(), "-a".into(), template().display().to_string(), server.data()]);
        server.start_somewhere();
        server
    }

    /// Starts a server that also accepts connections with TLS.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn with_tls(certificates: &Certificates) -> Self {
        Self::with_tls_and_settings(certificates, &[])
    }

    /// Starts a server with these settings that also accepts connections with TLS.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn with_tls_and_settings(certificates: &Certificates, settings: &[&str]) -> Self {
        let mut server = Self::without_data(&[&["ssl=on"], settings].concat());
        run(&["cp".into(), "-a".into(), template().display().to_string(), server.data()]);
        let (certificate, key) = certificates.server();
        for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = format!("{}/{to}", server.data());
            fs::copy(from, &to).expect("the directory of the data is there");
            run(&["chmod".into(), "0600".into(), to.clone()]);
            give_away(&to);
        }
        server.start_somewhere();
        server
    }

    /// Starts a standby of this server, and waits until it streams.
    ///
    /// # Panics
    /// If the standby does not start.
    pub fn standby(&self, name: &str) -> Self {
        let mut standby = Self::without_data(&[]);
        let from = format!("host=127.0.0.1 port={} user=onelock application_name={name}", self.port);
        let args = ["-d", &from, "-D", &standby.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        run(&as_user("pg_basebackup", &args.map(Into::into)));
        standby.start_somewhere();
        let streams = || self.sql("select count(*) from pg_stat_replication where state = 'streaming'") != "0";
        assert!(wait_for("the standby to stream", streams), "no replication");
        standby
    }

    fn without_data(settings: &[&str]) -> Self {
        let dir = Scratch::new();
        give_away(dir.text());
        Self { daemon: None, dir, port: 0, settings: settings.iter().map(ToString::to_string).collect() }
    }

    fn start_somewhere(&mut self) {
        for _ in 0..5 {
            self.port = free_port();
            // Another test may have taken the port.
            if self.launch() {
                return;
            }
        }
        panic!("PostgreSQL does not start; see its output above");
    }

    fn launch(&mut self) -> bool {
        let mut args: Vec<String> =
            ["-D", &self.data(), "-p", &self.port.to_string(), "-k", self.dir.text()].map(Into::into).into();
        let common = ["listen_addresses=127.0.0.1", "fsync=off", "log_min_messages=fatal"].map(String::from);
        args.extend(common.iter().chain(&self.settings).flat_map(|setting| ["-c".into(), setting.clone()]));
        let command = as_user("postgres", &args);
        // A killed server leaves its shared memory behind.
        self.daemon = Some(Daemon::start_with("QUIT", &command[0], "postgresql", &command[1..]));
        let ready = || {
            let mut asked = Command::new(program("pg_isready"));
            asked.args(["-q", "-h", "127.0.0.1", "-U", "onelock", "-d", "postgres", "-p", &self.port.to_string()]);
            asked.status().is_ok_and(|status| status.success())
        };
        wait_for("the server to answer", || ready() || !self.runs()) && self.runs()
    }

    fn runs(&self) -> bool {
        self.daemon.as_ref().is_some_and(Daemon::runs)
    }

    fn data(&self) -> String {
        format!("{}/data", self.dir.text())
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Returns the directory of the Unix socket.
    pub fn socket_directory(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the URL of the database.
    pub fn url(&self) -> String {
        format!("postgres://onelock@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops the server at once, without a checkpoint, as if it had crashed. What was not yet
    /// written to disk is lost.
    pub fn crash(&mut self) {
        self.daemon = None;
    }

    /// Starts the server again on the same port, after a [`crash`](Self::crash).
    ///
    /// # Panics
    /// If the server does not start, or runs.
    pub fn restart(&mut self) {
        assert!(self.daemon.is_none(), "stop it first");
        assert!(self.launch(), "PostgreSQL does not start again");
    }

    /// Makes this standby a primary.
    ///
    /// # Panics
    /// If it is none.
    pub fn promote(&self) {
        run(&as_user("pg_ctl", &["promote", "-s", "-w", "-D", &self.data()].map(Into::into)));
    }

    /// Runs SQL, and returns what it prints: one line a row, with `|` between the columns.
    ///
    /// # Panics
    /// If the server refuses it.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs SQL, which the server may refuse.
    ///
    /// # Errors
    /// What the server says against it.
    ///
    /// # Panics
    /// If there is no psql.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let port = self.port.to_string();
        let args = ["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-U", "onelock", "-p", &port, "-d", "postgres"];
        let output = Command::new(program("psql")).args(args).args(["-v", "ON_ERROR_STOP=1", "-c", sql]).output();
        let output = output.expect("psql comes with the server");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// Returns a directory of data that all tests copy, because to create one takes most of a second.
fn template() -> PathBuf {
    let dir = target_directory().join("postgres-template");
    fs::create_dir_all(&dir).expect("the target directory is writable");
    let lock = File::create(dir.join("lock")).expect("the target directory is writable");
    lock.lock().expect("a local file can be locked");
    // By the version, because a server reads only the data of its own.
    let data = dir.join(program("initdb").to_string_lossy().replace('/', "-"));
    if !data.exists() {
        // The server's user need not see the target directory.
        let made = Scratch::new();
        give_away(made.text());
        let new = format!("{}/data", made.text());
        let args = ["-D", &new, "-U", "onelock", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"];
        let args = args.into_iter().chain(["--wal-segsize=1"]).map(Into::into).collect::<Vec<_>>();
        run(&as_user("initdb", &args));
        let unfinished = dir.join("unfinished").display().to_string();
        run(&["rm".into(), "-rf".into(), unfinished.clone()]);
        run(&["cp".into(), "-a".into(), new, unfinished.clone()]);
        fs::rename(unfinished, &data).expect("both are in one directory");
    }
    data
}

/// Returns the path of a program of the server. Debian has them outside of the `PATH`, by version.
fn program(name: &str) -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = versions.chain(std::env::split_paths(&on_path));
    let dir = all
        .find(|dir| dir.join("postgres").exists())
        .expect("PostgreSQL is not installed; this test needs it: apt-get install postgresql");
    dir.join(name)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Gives a file to the user that runs the servers.
pub(crate) fn give_away(path: &str) {
    if is_root() {
        run(&["chown".into(), "postgres".into(), path.into()]);
    }
}

/// Returns a command line that runs a program of the server as a user other than root.
fn as_user(name: &str, args: &[String]) -> Vec<String> {
    as_other_user(&program(name).display().to_string(), args)
}

/// Returns a command line that runs `program` as a user other than root.
pub(crate) fn as_other_user(program: &str, args: &[String]) -> Vec<String> {
    let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"].map(String::from);
    let mut command = if is_root() { user.to_vec() } else { Vec::new() };
    command.push(program.into());
    command.extend_from_slice(args);
    command
}

fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
