//! Two processes whose tasks hand one lock over among themselves.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use lock_core::Locker;

/// The tasks of each process.
const TASKS: u64 = 8;
/// How often each task acquires the lock.
const ROUNDS: u64 = 30;

/// Lets the tasks of two lockers with `hand_over` acquire one lock. The lockers share nothing but
/// their store.
///
/// # Panics
/// If two tasks hold the lock at once, if the tokens do not rise, or if few locks are handed over.
pub async fn assert_two_lockers_exclude_each_other(lockers: [Locker; 2]) {
    let [inside, last, handed_over] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for locker in lockers.iter().flat_map(|locker| (0..TASKS).map(|_| locker.clone())) {
        let [inside, last, handed_over] = [&inside, &last, &handed_over].map(Arc::clone);
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = locker.acquire("shared").await.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two tasks hold the lock");
                let token = guard.token().expect("a store that hands over has tokens").get();
                let before = last.swap(token, SeqCst);
                assert!(before < token, "{token} after {before}");
                // Grants of the store are more than a microsecond apart.
                handed_over.fetch_add(u64::from(before + 1 == token), SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                inside.fetch_sub(1, SeqCst);
                guard.release().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    let handed_over = handed_over.load(SeqCst);
    assert!(handed_over > TASKS * ROUNDS / 2, "only {handed_over} were handed over");
}

/// How often each of two processes acquires the lock that they share.
const ACQUISITIONS: usize = 1_500;
/// The most hand-overs in a row meanwhile.
const HAND_OVER: u32 = 30;
/// How long a process may write nothing until it counts as hanging. Long against the work of a busy
/// machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// The store, for a process that a test has started.
const STORE: &str = "ONELOCK_TEST_SHARED_STORE";

/// Lets two processes with `hand_over` contend for one lock.
///
/// The calling test is `test`, with its modules. `start` starts the store, and returns what keeps
/// it running, and its config string. Then the test runs again in each of two processes, where
/// `open` opens the store.
///
/// # Panics
/// If one process gets less than 40 % of the lock while both want it, or if one hangs.
pub fn assert_two_processes_share<T>(
    test: &str,
    start: impl FnOnce() -> (T, String),
    open: impl AsyncFnOnce(&str) -> Locker,
) {
    if let Ok(store) = std::env::var(STORE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(async { contend(open(&store).await).await });
    }
    let (_server, store) = start();
    let joined = if store.contains('?') { '&' } else { '?' };
    let store = format!("{store}{joined}hand_over={HAND_OVER}");
    let mut members = [(); 2].map(|()| Member::start(test, &store));
    members.iter_mut().for_each(Member::begin);
    assert_even(&turns(&members.map(Member::tokens)), ACQUISITIONS / 2);
}

/// Checks that two processes shared a lock, in these [`turns`].
///
/// # Panics
/// If one process got less than 40 % of the lock, or if both got it less than `at_least` times.
pub fn assert_even(turns: &[(usize, usize)], at_least: usize) {
    // Until both processes have met, the first one to come has the lock.
    let turns = turns.get(4..).unwrap_or_default();
    let acquired = |process| turns.iter().filter(|turn| turn.0 == process).map(|turn| turn.1).sum::<usize>();
    let (a, b) = (acquired(0), acquired(1));
    assert!(a + b >= at_least, "one process was alone: {turns:?}");
    assert!(100 * a.min(b) >= 40 * (a + b), "the processes got {a} and {b}: {turns:?}");
}

/// The work of one process. Prints the tokens that it got.
async fn contend(locker: Locker) {
    // Opens the connections.
    let own = format!("warm-{}", std::process::id());
    locker.acquire(own.as_str()).await.unwrap().release().await.unwrap();
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).expect("the test writes a line");
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (locker, tokens) = (locker.clone(), Arc::clone(&tokens));
            tokio::spawn(async move {
                let has_all = || tokens.lock().expect("no task panics").len() >= ACQUISITIONS;
                while !has_all() {
                    let guard = locker.acquire("shared").await.unwrap();
                    let token = guard.token().expect("a store that hands over has tokens").get();
                    tokens.lock().expect("no task panics").push(token);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    let tokens = tokens.lock().expect("no task panics");
    println!("tokens{}", tokens.iter().map(|token| format!(" {token}")).collect::<String>());
}

/// A process of a test.
struct Member {
    process: Child,
    /// Its lines. A thread reads them, so that a process that hangs does not stop the test.
    output: mpsc::Receiver<String>,
}

impl Member {
    fn start(test: &str, store: &str) -> Self {
        let program = std::env::current_exe().expect("the test has a program");
        let mut command = Command::new(program);
        command.args([test, "--exact", "--nocapture"]).env(STORE, store);
        // DynamoDB Local takes any credentials, but demands some.
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let (write, output) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| write.send(line)));
        let member = Self { process, output };
        member.line("ready");
        member
    }

    /// Reads up to the line that begins with `word`, and returns the rest of that line.
    fn line(&self, word: &str) -> String {
        loop {
            match self.output.recv_timeout(HANGS_AFTER) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(word) {
                        return rest.to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("the process hangs: it has not written {word:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the process ended before it wrote {word:?}"),
            }
        }
    }

    fn begin(&mut self) {
        writeln!(self.process.stdin.as_mut().expect("it is piped"), "begin").expect("it reads");
    }

    fn tokens(mut self) -> Vec<u64> {
        let line = self.line("tokens");
        let ended = std::iter::repeat_with(|| self.output.recv_timeout(HANGS_AFTER)).find_map(Result::err);
        assert_eq!(ended, Some(RecvTimeoutError::Disconnected), "the process hangs after its work");
        assert!(self.process.wait().expect("it ends").success());
        line.split_whitespace().map(|token| token.parse().expect("a token")).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may hang, or go on because the test has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns which process had the lock, and how often in a row, while both wanted it.
pub fn turns(tokens: &[Vec<u64>; 2]) -> Vec<(usize, usize)> {
    let end = tokens.iter().filter_map(|tokens| tokens.iter().max()).min().copied().unwrap_or_default();
    let of = |process: usize| tokens[process].iter().map(move |token| (*token, process));
    let mut order: Vec<_> = of(0).chain(of(1)).filter(|(token, _)| *token <= end).collect();
    order.sort_unstable();
    order.chunk_by(|a, b| a.1 == b.1).map(|turn| (turn[0].1, turn.len())).collect()
}
