//! Servers that all test processes share, because each start takes seconds.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A server that runs until a few seconds after its last user.
///
/// The first process starts it. Each user holds a shared lock on a file, which the kernel releases
/// when a test is killed.
#[derive(Debug)]
pub(crate) struct SharedServer {
    pub(crate) address: SocketAddr,
    _user: File,
}

impl SharedServer {
    /// Returns the server called `name`, and starts it if it does not run.
    ///
    /// `install` gets the directory of all servers. It returns the directory to start the server
    /// in, and a command of the shell that becomes the server (`exec`), on the port `$PORT`.
    /// `answers` says whether the right server listens at an address.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub(crate) fn find_or_start(
        name: &str,
        answers: impl Fn(SocketAddr) -> bool,
        install: impl FnOnce(&Path) -> (PathBuf, String),
    ) -> Self {
        let cache = cache();
        fs::create_dir_all(&cache).expect("the cache is writable; ONELOCK_SERVERS chooses another place");
        let starting = locked(&cache.join(format!("{name}.start")), File::lock);
        let user = locked(&cache.join(format!("{name}.users")), File::lock_shared);
        let note = cache.join(format!("{name}.port"));
        let noted = fs::read_to_string(&note).ok().and_then(|port| port.trim().parse().ok()).map(local);
        let address = noted.filter(|address| answers(*address)).unwrap_or_else(|| {
            let (home, command) = install(&cache);
            let started = (0..5).find_map(|_| start(name, &cache, &home, &command, &answers));
            started
                .unwrap_or_else(|| panic!("{name} did not start, five times; try it by hand: cd {home:?} && {command}"))
        });
        drop(starting);
        Self { address, _user: user }
    }
}

fn locked(path: &Path, how: impl Fn(&File) -> std::io::Result<()>) -> File {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    how(&file).expect("a local file can be locked");
    file
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Ends the server once no process has locked the users' file in five checks in a row. It holds the
/// lock that starters take, so that no user finds a server that is about to end.
const SUPERVISOR: &str = r#"
cd "$HOME_OF_SERVER"
sh -c "$COMMAND" &
server=$!
echo "$PORT" > "$CACHE/$NAME.port"
exec 8>"$CACHE/$NAME.start" 9>"$CACHE/$NAME.users"
idle=0
while kill -0 $server; do
    sleep 1
    if flock -n -x 9; then flock -u 9; idle=$((idle + 1)); else idle=0; fi
    if [ $idle -ge 5 ] && flock -n -x 8; then
        flock -n -x 9 && break
        flock -u 8
    fi
done
rm -f "$CACHE/$NAME.port"
kill -9 $server
"#;

/// Starts a server in a separate session, so that it outlives the test that started it.
#[expect(clippy::zombie_processes, reason = "the supervisor outlives this process, whose end lets init reap it")]
fn start(
    name: &str,
    cache: &Path,
    home: &Path,
    command: &str,
    answers: &impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let port = crate::free_port();
    let mut supervisor = Command::new("setsid")
        .args(["sh", "-c", SUPERVISOR])
        .env("HOME_OF_SERVER", home)
        .env("CACHE", cache)
        .env("NAME", name)
        .env("COMMAND", command)
        .env("PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and sh are on every Linux");
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if answers(local(port)) {
            return Some(local(port));
        }
        if supervisor.try_wait().is_ok_and(|exit| exit.is_some()) {
            // Most likely another process took the port meanwhile.
            return None;
        }
        sleep(Duration::from_millis(50));
    }
    None
}

fn cache() -> PathBuf {
    env::var_os("ONELOCK_SERVERS").map_or_else(
        || PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache/onelock/servers"),
        PathBuf::from,
    )
}
