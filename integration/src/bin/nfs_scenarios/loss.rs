//! What ends a lock that its holder did not give back.

use std::{thread::sleep, time::Duration};

use integration::monotonic_nanos;

use crate::{
    URL,
    peer::{Answer, Peer},
    rig,
};

/// Locks that are lost together in each cut; their probes are at different points of their cycle.
const LOCKS: usize = 5;
/// How many times the link is cut, unless `DLOCK_NFS_CUTS` says so.
const CUTS: usize = 4;

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

/// A holder that is cut off for longer than the lease has stopped before the other client gets the lock, every time; and what it still
/// sends after the link is healed is refused by its token.
pub(crate) fn cut() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    let cuts = std::env::var("DLOCK_NFS_CUTS").map_or(CUTS, |n| n.parse().expect("a number"));
    let mut leads = Vec::new();
    for _ in 0..cuts {
        leads.extend(cut_once(&mut a, &mut b));
    }
    leads.sort_unstable();
    let (least, median, most) = (leads[0], leads[leads.len() / 2], leads[leads.len() - 1]);
    println!(
        "FIGURE cut: of {} locks lost in {cuts} cuts each was noticed first: {least}, {median}, {most} ms (least, median, most) before \
         the other client had it",
        leads.len()
    );
}

/// Returns by how many milliseconds each loss came before the other client's acquisition.
fn cut_once(a: &mut Peer, b: &mut Peer) -> Vec<i64> {
    let names: Vec<String> = (0..LOCKS).map(|i| format!("cut-{i}")).collect();
    let held: Vec<Answer> = names.iter().map(|name| a.acquire(name)).collect();
    names.iter().for_each(|name| b.tell(&format!("acquire {name}")));
    // Not all cuts are to come at the same moment of the probes' cycle.
    sleep(Duration::from_millis(500 + (monotonic_nanos() % 997) as u64));
    rig("cut_a");
    let cut = monotonic_nanos();
    let mut leads = Vec::new();
    let mut won = Vec::new();
    for name in &names {
        let lost = a.expect("lost", name);
        let got = b.expect("acquired", name);
        let stopped: i64 = lost.words[2].parse().expect("a moment");
        assert_eq!(lost.words[0], "unreachable", "{lost:?}");
        assert!(stopped < got.at && lost.at < got.at, "{name} was lost after the other had it: {lost:?} {got:?}");
        println!(
            "{name}: lost {} ms, had {} ms after the cut",
            (lost.at - cut) / 1_000_000,
            (got.at - cut) / 1_000_000
        );
        leads.push((got.at - lost.at) / 1_000_000);
        won.push(got);
    }
    rig("heal_a");
    a.wait_until_up();
    for ((name, old), new) in names.iter().zip(&held).zip(&won) {
        let mut resource = Resource::default();
        assert!(resource.write(old.token()) && resource.write(new.token()), "{name}: tokens rise");
        assert!(!resource.write(old.token()), "{name}: the late write is refused");
        a.tell(&format!("release {name}"));
        a.expect("notheld", name);
        assert!(!a.tries(name), "{name} is held by the other");
        b.release(name);
    }
    leads
}

/// A server that restarts while a lock is held lets the holder reclaim it: the guard survives, and nobody else gets in. When it is down for longer than a
/// lease the guard is lost, though the lock was not: nobody could know.
pub(crate) fn restart() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("restart");
    b.tell("acquire restart");
    rig("restart_server");
    assert!(b.within("acquired", "restart", Duration::from_secs(25)).is_none(), "the lock was not reclaimed");
    assert!(a.within("lost", "restart", Duration::ZERO).is_none(), "the guard survives");
    rig("restart_server 12");
    let lost = a.expect("lost", "restart");
    assert_eq!(lost.words[0], "unreachable", "{lost:?}");
    a.tell("release restart");
    let got = b.expect("acquired", "restart");
    assert!(lost.at < got.at);
}

/// A lock file that is removed on the other client is a loss, and what is locked anew is the new file on both.
pub(crate) fn removed() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("removed");
    assert!(!b.tries("removed"));
    rig("on_b rm /efs/locks/removed.lock");
    let second = b.acquire("removed");
    let lost = a.within("lost", "removed", Duration::from_secs(90)).expect("the loss is noticed");
    assert_eq!(lost.words[0], "file_lock");
    assert!(lost.words[1].contains("removed_or_replaced"), "{lost:?}");
    println!(
        "FIGURE removed: noticed {} ms after the other client locked the new file",
        (lost.at - second.at) / 1_000_000
    );
    a.tell("release removed");
    a.expect("notheld", "removed");
    assert!(!a.tries("removed"), "the new file is held by b");
}
