//! Scenarios in which a lock ends without a release.

use std::{thread::sleep, time::Duration};

use test_support::monotonic_nanos;

use crate::{
    URL,
    peer::{Answer, Peer},
    rig,
};

/// The clients whose links are cut one after the other, while B waits for all their locks.
const CLIENTS: [&str; 5] = ["a", "c", "d", "e", "f"];
/// The number of cuts of each client: 20 cuts in all.
const ROUNDS: usize = 4;
/// The number of locks of each client, whose probes are at different points of their cycle.
const LOCKS: usize = 2;

/// A protected resource, which refuses a token smaller than one that it has seen.
#[derive(Debug, Default)]
struct Resource(u64);

impl Resource {
    fn write(&mut self, token: u64) -> bool {
        let current = token >= self.0;
        self.0 = self.0.max(token);
        current
    }
}

/// Checks that a holder that is cut off for longer than the lease stops before another client
/// acquires the lock, in each of 20 cuts.
///
/// After the link is healed, its late writes are refused by their token, and its dead lock does not
/// block other processes of its host.
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
        "FIGURE cut: {cuts} of {cuts} clients that were cut off lost their locks first: {}, {}, {} ms (least, \
         median, most) before the other client \
         had one",
        leads[0],
        leads[cuts / 2],
        leads[cuts - 1]
    );
}

/// A lock, with the answers to its holder and to its successor.
struct Passed {
    name: String,
    old: Answer,
    new: Option<Answer>,
}

/// Returns for each client the shortest time from the loss of a lock to the next acquisition, in
/// milliseconds.
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
        // Cuts should happen at different points of the probes' cycle.
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
            assert!(stopped < got.at && lost.at < got.at, "lost after the other client acquired it: {lost:?} {got:?}");
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

/// Whether the local deadline ended the lock. On a busy machine the process may be stopped for a
/// second at the end of its lease, and then the reason is `frozen`.
pub(crate) fn ended_by_the_clock(lost: &Answer) -> bool {
    matches!(lost.words[0].as_str(), "unreachable" | "frozen")
}

/// Checks after the heal that the old holder, whose guard still exists, can neither write nor block
/// other clients.
fn late_write(holder: &mut Peer, other: &mut Peer, b: &mut Peer, lock: &Passed) {
    let (name, old) = (&lock.name, lock.old.token());
    let new = lock.new.as_ref().expect("the other client acquired it").token();
    let mut resource = Resource::default();
    assert!(resource.write(old) && resource.write(new), "{name}: tokens increase");
    assert!(!resource.write(old), "{name}: the late write is refused");
    assert!(!other.tries(name), "{name} is held by b");
    b.release(name);
    // On the host of the old holder, where an open descriptor of the dead lock would block it.
    assert!(other.acquire(name).token() > new);
    holder.tell(&format!("release {name}"));
    holder.expect("notheld", name);
    assert!(!b.tries(name), "{name}: releasing the lost lock freed the successor's lock");
    other.release(name);
}

/// Checks that the next probe reports the loss after the server has forgotten a reachable client
/// and its locks.
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
    // The guard still exists. An open descriptor of the dead lock would block its own host.
    let mut other = Peer::start("a", URL);
    other.acquire("expired");
    a.tell("release expired");
    a.expect("notheld", "expired");
    assert!(!b.tries("expired"), "releasing the lost lock freed the successor's lock");
}

/// Checks that a holder reclaims its lock after a restart of the server, and no other client
/// acquires it.
///
/// If the server is down for longer than a lease, the guard is lost, although the server keeps the
/// lock: the holder cannot know that.
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

/// Checks that a holder loses its lock if the other client removes or replaces the lock file. Later
/// acquisitions lock the new file, on both clients.
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

/// Checks that a holder loses its lock if another client removes the lock file or moves its
/// directory, although this client would trust its cache of both for ten minutes.
///
/// A waiter keeps the removed file open, so the server still knows it, and no call on the holder's
/// client fails.
pub(crate) fn cached() {
    rig("remount_a vers=4.1,hard,timeo=600,retrans=2,noresvport,actimeo=600");
    for (name, url, command, words) in [
        ("cached", URL, "rm /efs/locks/cached.lock", "was_removed_or_replaced"),
        ("moved", "efs:///efs/above/locks", "mv /efs/above /efs/away", "the_directory_of"),
    ] {
        let (mut a, mut b) = (Peer::start("a", url), Peer::start("b", url));
        a.acquire(name);
        assert!(!b.tries(name));
        b.tell(&format!("acquire {name}"));
        assert!(b.within("acquired", name, Duration::from_secs(3)).is_none(), "{name} is held by a");
        rig(&format!("on_b {command}"));
        // Each client would wait for ten minutes otherwise.
        let lost = a.expect("lost", name);
        assert_eq!(lost.words[0], "file_lock", "{lost:?}");
        assert!(lost.words[1].contains(words), "{lost:?}");
        if name == "cached" {
            b.expect("acquired", name);
            assert!(!Peer::start("a", url).tries(name), "the new file is held by b");
        }
    }
    rig("remount_a vers=4.1,hard,timeo=600,retrans=2,noresvport");
}
