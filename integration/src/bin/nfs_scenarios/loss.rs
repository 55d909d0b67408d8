//! What ends a lock that its holder did not give back.

use std::{thread::sleep, time::Duration};

use test_support::monotonic_nanos;

use crate::{
    URL,
    peer::{Answer, Peer},
    rig,
};

/// Clients whose links are cut, a moment apart, while B waits for all their locks.
const CLIENTS: [&str; 5] = ["a", "c", "d", "e", "f"];
/// How often: 20 cuts in all.
const ROUNDS: usize = 4;
/// What each client holds; the probes of its locks are at different points of their cycle.
const LOCKS: usize = 2;

/// What the work writes to: it refuses a token that is smaller than one that it has seen.
#[derive(Debug, Default)]
struct Resource(u64);

impl Resource {
    fn write(&mut self, token: u64) -> bool {
        let current = token >= self.0;
        self.0 = self.0.max(token);
        current
    }
}

/// A holder that is cut off for longer than the lease has stopped before the other client gets the
/// lock, every time out of 20; what it still sends after the link is healed is refused by its
/// token; and its dead lock keeps out no other process of its host.
pub(crate) fn cut() {
    CLIENTS[1..].iter().for_each(|client| drop(rig(&format!("boot_{client}"))));
    let mut holders = CLIENTS.map(|client| Peer::start(client, URL));
    let mut others = CLIENTS.map(|client| Peer::start(client, URL));
    let mut b = Peer::start("b", URL);
    let mut leads: Vec<i64> = (0..ROUNDS).flat_map(|_| cut_all(&mut holders, &mut others, &mut b)).collect();
    leads.sort_unstable();
    let cuts = ROUNDS * CLIENTS.len();
    assert_eq!(leads.len(), cuts);
    println!(
        "FIGURE cut: {cuts} of {cuts} clients that were cut off lost their locks first: {}, {}, {} ms (least, median, most) before the other client \
         had one",
        leads[0],
        leads[cuts / 2],
        leads[cuts - 1]
    );
}

/// A lock as its holder and its successor have it.
struct Passed {
    name: String,
    old: Answer,
    new: Option<Answer>,
}

/// Returns for each client by how many milliseconds the loss of its locks came before another's
/// acquisition, at the least.
fn cut_all(holders: &mut [Peer], others: &mut [Peer], b: &mut Peer) -> Vec<i64> {
    let mut locks: Vec<Vec<Passed>> = Vec::new();
    for (client, peer) in CLIENTS.iter().zip(&mut *holders) {
        let acquire = |i| {
            let name = format!("cut-{client}-{i}");
            Passed { old: peer.acquire(&name), name, new: None }
        };
        locks.push((0..LOCKS).map(acquire).collect());
    }
    locks.iter().flatten().for_each(|lock| b.tell(&format!("acquire {}", lock.name)));
    for client in CLIENTS {
        // Not all cuts are to come at the same moment of the probes' cycle.
        sleep(Duration::from_millis(300 + (monotonic_nanos() % 997) as u64));
        rig(&format!("cut_{client}"));
    }
    let mut leads = Vec::new();
    for (peer, locks) in holders.iter_mut().zip(&mut locks) {
        let lead = locks.iter_mut().map(|lock| {
            let lost = peer.expect("lost", &lock.name);
            let got = b.expect("acquired", &lock.name);
            let stopped: i64 = lost.words[2].parse().expect("a moment");
            assert!(ended_by_the_clock(&lost), "{lost:?}");
            assert!(stopped < got.at && lost.at < got.at, "lost after the other had it: {lost:?} {got:?}");
            let lead = (got.at - lost.at) / 1_000_000;
            lock.new = Some(got);
            lead
        });
        leads.extend(lead.min());
    }
    for (client, (peer, other)) in CLIENTS.iter().zip(holders.iter_mut().zip(&mut *others)) {
        rig(&format!("heal_{client}"));
        peer.wait_until_up();
        other.wait_until_up();
    }
    for (i, lock) in locks.iter().enumerate().flat_map(|(i, locks)| locks.iter().map(move |lock| (i, lock))) {
        late_write(&mut holders[i], &mut others[i], b, lock);
    }
    leads
}

/// On a busy machine the holder may stand still for a second just when its lease ends, and says
/// that.
fn ended_by_the_clock(lost: &Answer) -> bool {
    matches!(lost.words[0].as_str(), "unreachable" | "frozen")
}

/// After the heal: the old holder, whose guard lives on, can neither write nor be in the way.
fn late_write(holder: &mut Peer, other: &mut Peer, b: &mut Peer, lock: &Passed) {
    let (name, old) = (&lock.name, lock.old.token());
    let new = lock.new.as_ref().expect("the other client had it").token();
    let mut resource = Resource::default();
    assert!(resource.write(old) && resource.write(new), "{name}: tokens rise");
    assert!(!resource.write(old), "{name}: the late write is refused");
    assert!(!other.tries(name), "{name} is held by b");
    b.release(name);
    // On its own host, where a dead lock that is still open would be in the way.
    assert!(other.acquire(name).token() > new);
    holder.tell(&format!("release {name}"));
    holder.expect("notheld", name);
    assert!(!b.tries(name), "{name}: the release of what was lost freed the successor's lock");
    other.release(name);
}

/// A server that forgets a client takes its locks, though it was never out of reach: the next probe
/// finds that out, and says so.
pub(crate) fn expired() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("expired");
    b.tell("acquire expired");
    rig("expire a");
    let lost = a.expect("lost", "expired");
    assert_eq!(lost.words[0], "file_lock", "{lost:?}");
    assert!(lost.words[1].contains("the_NFS_server_dropped_the_lock"), "{lost:?}");
    b.expect("acquired", "expired");
    b.release("expired");
    // The guard lives on, and a dead lock that stayed open would be in the way of its own host.
    let mut other = Peer::start("a", URL);
    other.acquire("expired");
    a.tell("release expired");
    a.expect("notheld", "expired");
    assert!(!b.tries("expired"), "the release of what was lost freed the successor's lock");
}

/// A server that restarts while a lock is held lets the holder reclaim it: the guard survives, and
/// nobody else gets in. When it is down for longer than a lease the guard is lost, though the lock
/// was not: nobody could know.
pub(crate) fn restart() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("restart");
    b.tell("acquire restart");
    rig("restart_server");
    assert!(b.within("acquired", "restart", Duration::from_secs(25)).is_none(), "the lock was not reclaimed");
    assert!(a.within("lost", "restart", Duration::ZERO).is_none(), "the guard survives");
    rig("restart_server 12");
    let lost = a.expect("lost", "restart");
    assert!(ended_by_the_clock(&lost), "{lost:?}");
    a.tell("release restart");
    let got = b.expect("acquired", "restart");
    assert!(lost.at < got.at);
}

/// A lock file that is removed or replaced on the other client is a loss, and what is locked anew
/// is the new file on both.
pub(crate) fn removed() {
    for (name, command) in [
        ("removed", "rm /efs/locks/removed.lock"),
        ("replaced", "sh -c 'touch /efs/locks/new && mv /efs/locks/new /efs/locks/replaced.lock'"),
    ] {
        let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
        a.acquire(name);
        assert!(!b.tries(name));
        rig(&format!("on_b {command}"));
        let second = b.acquire(name);
        let lost = a.within("lost", name, Duration::from_secs(90)).expect("the loss is noticed");
        assert_eq!(lost.words[0], "file_lock", "{lost:?}");
        assert!(lost.words[1].contains("removed_or_replaced"), "{lost:?}");
        println!(
            "FIGURE {name}: noticed {} ms after the other client locked the new file",
            (lost.at - second.at) / 1_000_000
        );
        a.tell(&format!("release {name}"));
        a.expect("notheld", name);
        assert!(!a.tries(name), "the new file is held by b");
    }
}
