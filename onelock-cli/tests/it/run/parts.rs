//! Several holders of one lock, on the stores with leases.

use nix::sys::signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use test_support::{postgres::PostgresServer, redis::RedisServer};

use super::{
    fixture::{Running, code, eventually, is_alive, onelock, stdout},
    init,
    night::{
        breaking::{break_by_alice, refused},
        hold, status,
    },
};

/// Calls `test` with each of the stores, which are empty.
pub(crate) fn on_each_store(test: impl Fn(&str)) {
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    test(&format!("redis://{}", redis.addr()));
    for url in [init::url(), postgres.url()] {
        stdout(&mut onelock(["init", "--url", &url]));
        test(&url);
    }
}

fn attempt(url: &str, options: &[&str]) -> i32 {
    code(onelock(["run", "--url", url, "-n"]).args(options).args(["x", "true"]))
}

fn end(holder: Running) {
    holder.signal(SIGTERM);
    holder.wait();
}

/// Returns the owners of all holders, sorted.
fn owners(url: &str) -> Vec<String> {
    let held = status(url);
    let others = held["others"].as_array().into_iter().flatten();
    let owners = std::iter::once(&held).chain(others).filter_map(|holder| holder["owner"].as_str());
    let mut owners: Vec<_> = owners.map(str::to_owned).collect();
    owners.sort();
    owners
}

#[test]
// verifies: P12
fn commands_share_a_lock_and_keep_writers_out() {
    on_each_store(|url| {
        let (first, second) = (hold(url, &["-s"]), hold(url, &["-s"]));
        for options in [&[][..], &["-x"], &["--permits", "9"]] {
            assert_eq!(attempt(url, options), 1, "{url}: {options:?}");
        }
        let mut writer = Running::start(onelock(["run", "--url", url, "-v"]).args(["x", "echo", "writing"]));
        writer.expect_waiting();
        eventually("the writer keeps readers out", || attempt(url, &["-s"]) == 1);
        end(first);
        assert_eq!(attempt(url, &["-s"]), 1, "{url}");
        end(second);
        writer.expect_line("writing");
        writer.ends_with(0);
        assert_eq!(attempt(url, &["-s"]), 0, "{url}");
    });
}

#[test]
// verifies: P12
fn as_many_commands_run_as_all_of_them_allow() {
    on_each_store(|url| {
        let permits = ["--permits", "2"];
        let (first, _second) = (hold(url, &permits), hold(url, &permits));
        assert_eq!((attempt(url, &permits), attempt(url, &["-s"])), (1, 1), "{url}");
        let disagreeing = &mut onelock(["run", "--url", url, "-n", "--permits", "3", "x", "true"]);
        refused(disagreeing, 78, "the lock has 2 permits for its present holders, but this request is for one of 3");
        end(first);
        assert_eq!(attempt(url, &permits), 0, "{url}");
    });
}

#[test]
// verifies: P3, P9, P12
fn the_others_go_on_when_a_holder_is_killed_or_frozen() {
    on_each_store(|url| {
        let permits = ["--permits", "3", "--ttl", "8s"];
        let [killed, frozen, other] = ["killed", "frozen", "other"].map(|owner| {
            let holder = hold(url, &[&permits[..], &["--owner", owner]].concat());
            let job = holder.command();
            (holder, job)
        });
        killed.0.signal(SIGKILL);
        frozen.0.signal(SIGSTOP);
        eventually("their jobs have ended", || !is_alive(killed.1) && !is_alive(frozen.1));
        eventually("their parts have ended", || owners(url) == ["other"]);
        assert!(is_alive(other.1), "{url}");
        assert_eq!((attempt(url, &permits), attempt(url, &[])), (0, 1), "{url}");
        frozen.0.signal(SIGCONT);
        let message = frozen.0.ends_with(75);
        assert!(message.contains("did not run for "), "{url}: {message}");
    });
}

#[test]
// verifies: P3, P12
fn break_takes_the_part_of_one_holder_and_the_others_go_on() {
    on_each_store(|url| {
        let break_if = |args: &[&str]| break_by_alice(url, args);
        let reader = |owner: &str| hold(url, &["-s", "--ttl", "8s", "--owner", owner]);
        let (one, two, three) = (reader("one"), reader("two"), reader("three"));
        refused(&mut break_if(&["--if-holder", "four"]), 1, "it has changed, and is now held by ");
        assert_eq!(owners(url), ["one", "three", "two"]);
        let broke = stdout(&mut break_if(&["--if-holder", "two"]));
        assert!(broke.starts_with("broke \"x\", which was held by two for "), "{broke}");
        let message = two.ends_with(75);
        assert!(message.contains("was lost: broken by alice"), "{url}: {message}");
        assert_eq!(owners(url), ["one", "three"]);
        refused(&mut break_if(&["--if-holder", "two"]), 1, "it has changed, and is now held by ");

        // Any holder is one holder.
        assert_eq!(code(&mut break_if(&["--yes"])), 0);
        let left = owners(url);
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(attempt(url, &[]), 1, "the other one goes on");
        let (broken, mut other) = if left == ["one"] { (three, one) } else { (one, three) };
        broken.ends_with(75);
        assert_eq!(other.child.try_wait().unwrap(), None);
    });
}

#[test]
// verifies: P3, P12
fn break_takes_no_holder_that_was_not_named() {
    let server = RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let _both = [(); 2].map(|()| hold(&url, &["-s", "--owner", "same"]));
    refused(&mut break_by_alice(&url, &["--if-holder", "same"]), 64, "2 holders fit: same for ");
    assert_eq!(owners(&url), ["same", "same"]);

    let held = status(&url);
    let [first, second] = [&held["token"], &held["others"][0]["token"]].map(ToString::to_string);
    stdout(&mut break_by_alice(&url, &["--if-holder", "same", "--if-token", &second]));
    assert_eq!((owners(&url), status(&url)["token"].to_string()), (vec!["same".to_owned()], first));
}

#[test]
// verifies: P12, contention
fn fair_commands_on_dynamodb_run_in_the_order_of_arrival() {
    let url = init::url();
    stdout(&mut onelock(["init", "--url", &url]));
    let holder = hold(&url, &[]);
    let wait = || {
        let command = ["x", "--", "sh", "-c", "echo $ONELOCK_TOKEN"];
        let mut waiter = Running::start(onelock(["run", "--url", &url, "--fair", "-v"]).args(command));
        waiter.expect_waiting();
        waiter
    };
    // Each has its place when it says that it waits.
    let mut waiters: Vec<_> = (0..5).map(|_| wait()).collect();
    end(holder);
    let tokens: Vec<u64> = waiters.iter_mut().map(|waiter| waiter.line().parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
}
