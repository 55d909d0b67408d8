//! Three services elect one leader, which is frozen, killed and terminated. Clients never get
//! answers of two leaders at the same time.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use test_support::{free_port, redis::RedisServer, wait_for};

use crate::fixture::Process;

/// One answer that a client received.
#[derive(Debug, Clone, Copy)]
struct Answer {
    service: usize,
    sent: Instant,
    received: Instant,
    /// The token of the leader that served it; `None` from a follower.
    token: Option<u64>,
}

/// Sends one request to the service at `port`.
fn ask(service: usize, port: u16) -> Option<Answer> {
    let sent = Instant::now();
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let received = Instant::now();
    let token = reply.rsplit_once("token ").and_then(|(_, token)| token.trim().parse().ok());
    assert_eq!(token.is_some(), reply.starts_with("HTTP/1.1 200"), "{reply}");
    Some(Answer { service, sent, received, token })
}

struct Fleet {
    services: Vec<Process>,
    history: Arc<Mutex<Vec<Answer>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Fleet {
    fn start(url: &str) -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let service = |port: &u16| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_leader"));
            Process::start(command.args([&format!("127.0.0.1:{port}"), "greeter"]).env("ONELOCK_URL", url))
        };
        let services = ports.iter().map(service).collect();
        let history = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let client = |(service, port): (usize, u16)| {
            let (history, stop) = (Arc::clone(&history), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let answer = ask(service, port);
                    history.lock().unwrap().extend(answer);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let clients = ports.into_iter().enumerate().map(client).collect();
        Self { services, history, stop, clients }
    }

    /// Waits for an answer that satisfies `wanted`.
    fn answer(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let mut found = None;
        wait_for(what, || {
            found = self.history.lock().unwrap().iter().copied().find(|answer| wanted(answer));
            found.is_some()
        });
        let said = || self.services.iter().map(Process::lines).collect::<Vec<_>>();
        found.unwrap_or_else(|| panic!("no {what}; the services said {:#?}", said()))
    }

    /// Returns the first answer of a leader whose token is larger than that of `before`, once the
    /// leader has served for a while.
    fn leader_after(&self, before: Option<Answer>) -> Answer {
        let before = before.and_then(|answer| answer.token);
        self.answer("leader", |answer| answer.token > before);
        let mut first = None;
        let mut serves = || {
            let history = self.history.lock().unwrap();
            // On a busy machine a leader may lose its lease without being frozen, and another one
            // takes over.
            let latest = history.iter().map(|answer| answer.token).max()?;
            let answers = history.iter().filter(|answer| answer.token == latest);
            first = answers.clone().next().copied();
            Some(answers.count() >= 100)
        };
        let found = wait_for("a hundred answers of one leader", || serves() == Some(true));
        assert!(found, "the services said {:#?}", self.services.iter().map(Process::lines).collect::<Vec<_>>());
        first.expect("the leader has answered a hundred times")
    }

    fn end(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        self.history.lock().unwrap().clone()
    }
}

/// Asserts that no two leaders served at the same time.
///
/// They did if an earlier leader answered a request that was sent after a later leader's answer had
/// arrived.
fn assert_no_overlap(history: &[Answer]) {
    let served: Vec<_> = history.iter().filter(|answer| answer.token.is_some()).collect();
    for later in &served {
        let beside = served.iter().find(|answer| answer.token < later.token && answer.sent > later.received);
        assert!(beside.is_none(), "{beside:#?} was served at the same time as {later:#?}");
    }
}

fn leaders_come_and_go(url: &str) {
    let mut fleet = Fleet::start(url);
    let first = fleet.leader_after(None);

    fleet.services[first.service].freeze();
    let second = fleet.leader_after(Some(first));
    assert_ne!(second.service, first.service);
    fleet.services[first.service].thaw();
    fleet.answer("answer of the thawed service", |a| a.service == first.service && a.sent > second.received);
    fleet.services[first.service].wait_for("stopped: the lock");

    fleet.services[second.service].kill();
    let third = fleet.leader_after(Some(second));
    assert_ne!(third.service, second.service);

    fleet.services[third.service].terminate();
    assert!(fleet.services[third.service].ends().success());
    fleet.services[third.service].wait_for("resigning: Released");
    let fourth = fleet.leader_after(Some(third));
    assert!(![second.service, third.service].contains(&fourth.service));

    let history = fleet.end();
    assert_no_overlap(&history);
    let followed = history.iter().filter(|answer| answer.token.is_none()).count();
    println!("{} answers of leaders, {followed} of followers", history.len() - followed);
}

#[test]
fn leaders_on_redis_never_serve_at_the_same_time() {
    let redis = RedisServer::start();
    leaders_come_and_go(&format!("redis://127.0.0.1:{}?ttl=2s", redis.port()));
}
