//! The clients in `examples/any_language`, on every store: each is killed and frozen, and so is its
//! `onelock hold`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::{SIGCONT, SIGKILL, SIGSTOP, kill};
use test_support::redis::RedisServer;

use super::fixture::{Process, client};
use crate::run::{
    fixture::{Locks, code, eventually, is_alive, onelock, stdout},
    init,
};

const NAME: &str = "nightly-etl";

/// The store of one test.
struct Store {
    locks: Locks,
    redis: Option<RedisServer>,
    table: Option<String>,
}

impl Store {
    fn files() -> Self {
        Self { locks: Locks::new(), redis: None, table: None }
    }

    fn redis() -> Self {
        Self { redis: Some(RedisServer::start()), ..Self::files() }
    }

    fn dynamodb() -> Self {
        let table = init::url();
        stdout(&mut onelock(["init", "--url", &table]));
        Self { table: Some(table), ..Self::files() }
    }

    fn has_leases(&self) -> bool {
        self.redis.is_some() || self.table.is_some()
    }

    fn url(&self, ttl: &str) -> String {
        match (&self.redis, &self.table) {
            (Some(redis), _) => format!("redis://{}?ttl={ttl}", redis.addr()),
            (_, Some(table)) => table.replace("ttl=20s", &format!("ttl={ttl}")),
            _ => self.locks.url(),
        }
    }
}

/// A client in one language.
struct Language {
    program: Vec<String>,
    /// Whether a loss ends it by a signal. Otherwise it looks at the clocks and the protocol.
    is_shell: bool,
}

fn example(file: &str) -> String {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/any_language");
    examples.join(file).to_str().unwrap().to_owned()
}

impl Language {
    fn bash() -> Self {
        Self { program: vec!["bash".into(), example("work.sh")], is_shell: true }
    }

    fn python() -> Self {
        Self { program: vec!["python3".into(), example("onelock_hold.py")], is_shell: false }
    }

    fn node() -> Self {
        Self { program: vec!["node".into(), example("onelock_hold.mjs")], is_shell: false }
    }

    fn go(store: &Store) -> Self {
        let compiled: PathBuf = store.locks.dir.path().join("go-client");
        let built =
            Command::new("go").args(["build", "-o"]).arg(&compiled).arg(".").current_dir(example("go")).status();
        assert!(built.expect("go is installed: apt-get install golang-go").success());
        Self { program: vec![compiled.to_str().unwrap().into()], is_shell: false }
    }

    fn start(&self, store: &Store, ttl: &str) -> Process {
        let args: Vec<&str> = self.program[1..].iter().map(String::as_str).collect();
        Process::start(client(&self.program[0], &args).env("ONELOCK_URL", store.url(ttl)))
    }

    /// Starts the client, which holds the lock then.
    fn holding(&self, store: &Store, ttl: &str) -> Process {
        let mut process = self.start(store, ttl);
        process.expect("held nightly-etl token=");
        process
    }
}

fn run(store: &Store, options: &[&str], command: &[&str]) -> Command {
    let mut run = onelock(["run", "--url", &store.url("20s")]);
    run.args(options).arg(NAME).args(command);
    run
}

fn is_held(store: &Store) -> bool {
    code(&mut run(store, &["-n"], &["true"])) == 1
}

/// Waits for the lock and takes it once. With the ttl of the holder it would wait for an hour.
fn becomes_free(store: &Store) {
    assert_eq!(stdout(&mut run(store, &["-w", "60"], &["echo", "another"])), "another\n");
}

fn excludes_both_ways(language: &Language, store: &Store) {
    let mut holder = language.holding(store, "20s");
    holder.write("one");
    holder.expect("step one");
    assert!(is_held(store));
    holder.close_input();
    holder.expect("released");
    holder.ends_with(0);
    assert!(!is_held(store));

    let mut other = Process::start(&mut run(store, &[], &["sh", "-c", "echo holding; read end"]));
    other.expect("holding");
    let mut refused = language.start(store, "20s");
    refused.expect("skipped: ");
    refused.ends_with(1);
    // The command of `onelock run` reads the input of this test.
    other.write("end");
    other.ends_with(0);
}

fn killed_client_frees_its_lock(language: &Language, store: &Store) {
    let mut killed = language.holding(store, "1h");
    let hold = killed.hold();
    killed.signal(SIGKILL);
    becomes_free(store);
    eventually("onelock has ended", || !is_alive(hold));
}

fn killed_hold_ends_the_work(language: &Language, store: &Store) {
    let mut client = language.holding(store, "4s");
    kill(client.hold(), SIGKILL).unwrap();
    if language.is_shell {
        client.expect("lost");
    } else {
        // The client is told by the end of the output, which may take a moment.
        let line = loop {
            client.write("late");
            let line = client.line();
            if line != "step late" {
                break line;
            }
        };
        assert_eq!(line, "lost: onelock ended");
    }
    client.ends_with(75);
    becomes_free(store);
}

fn frozen_hold_ends_the_work_with_the_lease(language: &Language, store: &Store) {
    let mut client = language.holding(store, "4s");
    let hold = client.hold();
    kill(hold, SIGSTOP).unwrap();
    if store.has_leases() {
        // The next holder marks the end of the lease.
        becomes_free(store);
        if language.is_shell {
            assert!(!is_alive(client.pid()), "the script outlived the lease");
        } else {
            client.write("late");
        }
        client.expect("lost");
        client.ends_with(75);
    } else {
        // A lock in a file has no lease, and its holder lives.
        client.write("still");
        client.expect("step still");
        assert!(is_held(store));
        kill(hold, SIGCONT).unwrap();
        client.close_input();
        client.expect("released");
        client.ends_with(0);
    }
}

fn frozen_client_keeps_its_lock(language: &Language, store: &Store) {
    let mut client = language.holding(store, "4s");
    client.signal(SIGSTOP);
    // Longer than the lease, which is renewed meanwhile.
    assert_eq!(code(&mut run(store, &["-w", "6"], &["true"])), 1);
    client.signal(SIGCONT);
    client.write("thawed");
    let line = client.line();
    if line == "lost: expired" && store.has_leases() && !language.is_shell {
        // It looked at the clock before it had read of the renewals, which is safe.
        client.ends_with(75);
        becomes_free(store);
        return;
    }
    assert_eq!(line, "step thawed");
    client.close_input();
    client.expect("released");
    client.ends_with(0);
}

fn keeps_every_promise(language: &Language, store: &Store) {
    excludes_both_ways(language, store);
    killed_client_frees_its_lock(language, store);
    killed_hold_ends_the_work(language, store);
    frozen_hold_ends_the_work_with_the_lease(language, store);
    frozen_client_keeps_its_lock(language, store);
}

/// Defines a test for each store.
macro_rules! on_every_store {
    ($($language:ident: $start:expr;)*) => {
        $(
            mod $language {
                use super::*;

                #[test]
                fn on_files() {
                    let store = Store::files();
                    let start: fn(&Store) -> Language = $start;
                    keeps_every_promise(&start(&store), &store);
                }

                #[test]
                fn on_redis() {
                    let store = Store::redis();
                    let start: fn(&Store) -> Language = $start;
                    keeps_every_promise(&start(&store), &store);
                }

                #[test]
                fn on_dynamodb() {
                    let store = Store::dynamodb();
                    let start: fn(&Store) -> Language = $start;
                    keeps_every_promise(&start(&store), &store);
                }
            }
        )*
    };
}

on_every_store! {
    bash: |_| Language::bash();
    python: |_| Language::python();
    node: |_| Language::node();
    go: Language::go;
}
