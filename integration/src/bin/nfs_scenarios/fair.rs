//! Scenarios with fair requests, which are granted first come, first served.

use std::time::{Duration, Instant};

use crate::{
    URL,
    modes::A_WHILE,
    peer::{Answer, Peer},
    rig,
};

/// How long a request waits at most that has no order among others.
const UNORDERED: Duration = Duration::from_secs(300);

/// Checks that fair requests of both clients are granted in the order in which they came, although
/// other processes of both clients take the lock again and again.
pub(crate) fn order() {
    let name = "fair";
    let mut churning = ["a", "b"].map(|client| Peer::start(client, URL));
    let mut waiting: Vec<_> = (0..6).map(|i| Peer::start(["b", "a"][i % 2], URL)).collect();
    for peer in &mut churning {
        peer.tell(&format!("churn {name}"));
        peer.expect("cycle", name);
    }
    // The lock is free between two cycles, so a request may not have to wait.
    let mut first = Peer::start("a", URL);
    first.tell(&format!("acquire {name}"));
    // The three have no order, and the slower the machine, the shorter is the lock free.
    first.within("acquired", name, UNORDERED).expect("the lock is free between two cycles");
    let begun: Vec<_> = waiting.iter_mut().map(|peer| peer.queue(name)).collect();
    first.release(name);
    let mut granted = Vec::new();
    for peer in &mut waiting {
        granted.push(peer.expect("acquired", name));
        peer.release(name);
    }
    assert!(granted.is_sorted_by_key(|got| got.at) && granted.is_sorted_by_key(Answer::token), "{granted:?}");
    let (from, to) = (begun[0].at, granted[granted.len() - 1].at);
    for peer in &mut churning {
        let cycles = std::iter::from_fn(|| peer.within("cycle", name, UNORDERED));
        let mut begun = cycles.map(|cycle| cycle.words[1].parse::<i64>().expect("a moment"));
        let next = begun.find(|&at| at > from).expect("newcomers get the lock again");
        assert!(next > to, "a newcomer overtook waiters at {next}, between {from} and {to}");
        let early = peer.all_until(Instant::now());
        assert!(early.iter().all(|answer| answer.what != "error"), "{early:?}");
    }
}

/// Checks that a waiter whose client is cut off is skipped after the lease of the server, and not
/// before: until then no request overtakes it. After the heal it waits at the end.
pub(crate) fn cut() {
    let name = "fair-cut";
    rig("boot_c");
    let (mut a, mut b, mut c) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("c", URL));
    a.acquire(name);
    c.queue(name);
    b.queue(name);
    rig("cut_c");
    let cut = test_support::monotonic_nanos();
    let released = a.release(name);
    let mut newcomer = Peer::start("a", URL);
    newcomer.tell(&format!("try {name}"));
    let refused = newcomer.expect("held", name);
    assert!(refused.words[0].starts_with("client-c:"), "the refusal names the waiter: {refused:?}");
    let got = b.expect("acquired", name);
    let (after, free) = ((got.at - cut) / 1_000_000, (got.at - released.at) / 1_000_000);
    println!("FIGURE fair-cut: skipped {after} ms after the cut, the lock was free for {free} ms");
    rig("heal_c");
    c.refused_anew(name);
    assert!(!newcomer.tries(name), "b holds it");
    b.release(name);
    c.expect("acquired", name);
    c.release(name);
    assert!(newcomer.tries(name), "the queue has a place that no request has");
}

/// Checks that waiters reclaim their places after a restart of the server. A place also counts
/// while its process is stopped.
pub(crate) fn restart() {
    let name = "fair-restart";
    let (mut a, mut b, mut c) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("a", URL));
    // A process that has met the queue looks for it again.
    let [mut newcomer, mut other] = [(); 2].map(|()| Peer::start("b", URL));
    a.acquire(name);
    b.queue(name);
    c.queue(name);
    rig("restart_server");
    c.refused_anew(name);
    b.refused_anew(name);
    b.signal("STOP");
    a.release(name);
    assert!(!newcomer.tries(name), "the first place was not reclaimed");
    assert!(c.within("acquired", name, A_WHILE).is_none(), "the first place was not reclaimed");
    // It would show its place itself when it is the first.
    c.signal("STOP");
    b.signal("CONT");
    b.expect("acquired", name);
    b.release(name);
    assert!(!other.tries(name), "the second place was not reclaimed, or not shown");
    c.signal("CONT");
    c.expect("acquired", name);
}

/// Checks that a waiter notices that the server has forgotten its client, and waits at the end. The
/// places of the other client stay.
pub(crate) fn expired() {
    let name = "fair-expired";
    let (mut a, mut b, mut c) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("a", URL));
    a.acquire(name);
    b.queue(name);
    c.queue(name);
    rig("expire b");
    b.refused_anew(name);
    c.signal("STOP");
    a.release(name);
    let overtakes = b.within("acquired", name, A_WHILE);
    assert!(overtakes.is_none(), "b kept a place that the server forgot: {overtakes:?}");
    c.signal("CONT");
    let first = c.expect("acquired", name);
    c.release(name);
    let second = b.expect("acquired", name);
    assert!(second.token() > first.token());
    b.release(name);
    assert!(c.tries(name), "the queue has a place that no request has");
}

/// Checks that a lock costs no request for a queue that has ended, or that never was.
pub(crate) fn ended() {
    let (never, ended) = ("fair-never", "fair-ended");
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire(ended);
    b.queue(ended);
    a.release(ended);
    b.expect("acquired", ended);
    b.release(ended);
    let mut looks = |name: &str| {
        let before = opens_and_questions();
        assert!(a.tries(name));
        a.release(name);
        opens_and_questions() - before
    };
    looks(never);
    let first = looks(ended);
    let [with, without] = [ended, never].map(looks);
    println!(
        "FIGURE fair-ended: {without} opens and questions for locks, {with} after a queue, {first} the first time"
    );
    assert!(with == without && without < first, "{with}, {without}, {first}");
}

/// The requests of client A that a look at a queue consists of.
fn opens_and_questions() -> u64 {
    let text = rig("rpcs_a");
    let counts = text.lines().filter_map(|line| line.split_once(' '));
    let looks = counts.filter(|(request, _)| request.starts_with("OPEN") || *request == "LOCKT");
    looks.map(|(_, count)| count.trim().parse::<u64>().expect("a number")).sum()
}
