//! Scenarios with several holders: shared locks and permits.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    URL,
    loss::ended_by_the_clock,
    peer::{Answer, Peer, SOON},
    rig,
    sharing::succeeds,
};

/// Longer than a peer needs for a probe, and for a few tries.
pub(crate) const A_WHILE: Duration = Duration::from_secs(4);

pub(crate) fn still_holds(peer: &mut Peer, name: &str) {
    let lost = peer.within("lost", name, A_WHILE);
    assert!(lost.is_none(), "{lost:?}");
}

/// Checks that readers on both clients hold a lock together, and that a writer waits for all of
/// them and is not overtaken. The crash of a reader frees its part only.
pub(crate) fn readers() {
    let name = "readers";
    let (mut a, mut b, mut writer) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("b", URL));
    let tokens = [&mut a, &mut b].map(|peer| peer.acquire_in("shared", name).token());
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    writer.tell(&format!("try {name}"));
    let refused = writer.expect("held", name);
    assert!(refused.words[0].contains("client-a:") && refused.words[0].contains("and_1_other_holder"), "{refused:?}");
    let mut late = Peer::start("a", URL);
    assert!(late.tries_in("shared", name), "no writer waits");
    late.release(name);
    writer.tell(&format!("acquire {name}"));
    assert!(writer.within("acquired", name, A_WHILE).is_none(), "readers hold it");
    assert!(!late.tries_in("shared", name), "a reader overtook the waiting writer");
    let killed = a.kill();
    assert!(writer.within("acquired", name, A_WHILE).is_none(), "a reader holds it");
    still_holds(&mut b, name);
    b.release(name);
    let got = writer.expect("acquired", name);
    assert!(got.token() > tokens[1] && got.at > killed);
    assert!(got.words[1].starts_with("client-a:"), "the grant names the crashed reader: {got:?}");
    assert!(!late.tries_in("shared", name), "the writer holds it");
    writer.release(name);
    // A mark that stayed would keep readers out.
    assert!(late.acquire_in("shared", name).token() > got.token());
}

/// Checks that readers that begin together all read at one time.
pub(crate) fn together() {
    let name = "together";
    let mut peers: Vec<_> = (0..8).map(|i| Peer::start(["a", "b"][i % 2], URL)).collect();
    peers.iter_mut().for_each(|peer| peer.tell(&format!("acquire {name} shared")));
    let tokens: HashSet<u64> = peers.iter_mut().map(|peer| peer.expect("acquired", name).token()).collect();
    assert_eq!(tokens.len(), peers.len(), "each has a token of its own");
    peers.iter_mut().for_each(|peer| drop(peer.release(name)));
}

/// Checks that as many clients as stated hold a permit. The permit of a killed holder is free
/// immediately.
pub(crate) fn permits() {
    let name = "permits";
    let mut peers = ["a", "b", "a", "b"].map(|client| Peer::start(client, URL));
    let [a, b, third, other] = &mut peers;
    let first = a.acquire_in("2", name);
    assert!(b.acquire_in("2", name).token() > first.token());
    assert!(!third.tries_in("2", name), "two permits are held");
    assert!(!third.tries_in("shared", name) && !third.tries(name), "permits exclude other modes");
    other.tell(&format!("try {name} 3"));
    let disagrees = other.expect("error", name);
    assert!(disagrees.words[0].contains('2') && disagrees.words[0].contains('3'), "{disagrees:?}");
    third.tell(&format!("acquire {name} 2"));
    a.kill();
    let next = third.expect("acquired", name);
    assert!(next.words[1].starts_with("client-a:"), "the grant names the crashed holder: {next:?}");
    assert!(!other.tries_in("2", name), "two permits are held again");
    still_holds(b, name);
}

/// Checks that a reader and a holder of a permit that are cut off stop before a writer, or the next
/// holder of the permit, begins. The other reader keeps its part.
///
/// After the heal, the late release frees and marks no part of the successors.
pub(crate) fn cut() {
    rig("boot_c");
    let (mut a, mut b, mut writer) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("c", URL));
    let mut next = Peer::start("b", URL);
    let reading = [&mut a, &mut b].map(|peer| peer.acquire_in("shared", "cut-readers"));
    let only = a.acquire_in("1", "cut-permit");
    writer.tell("acquire cut-readers");
    assert!(writer.within("acquired", "cut-readers", A_WHILE).is_none(), "readers hold it");
    rig("cut_a");
    next.tell("acquire cut-permit 1");
    let lost = ["cut-readers", "cut-permit"].map(|name| a.expect("lost", name));
    let taken = next.expect("acquired", "cut-permit");
    stopped_before(&lost[1], &taken);
    assert!(taken.token() > only.token());
    still_holds(&mut b, "cut-readers");
    assert!(writer.within("acquired", "cut-readers", Duration::ZERO).is_none(), "b holds its part");
    b.release("cut-readers");
    let written = writer.expect("acquired", "cut-readers");
    stopped_before(&lost[0], &written);
    assert!(written.token() > reading[1].token());
    rig("heal_a");
    a.wait_until_up();
    for name in ["cut-readers", "cut-permit"] {
        a.tell(&format!("release {name}"));
        a.expect("notheld", name);
    }
    // On the host of the old holder too, where an open descriptor of a dead lock would block.
    let mut other = Peer::start("a", URL);
    assert!(!other.tries_in("shared", "cut-readers") && !other.tries_in("1", "cut-permit"), "both are held");
    still_holds(&mut next, "cut-permit");
    next.release("cut-permit");
    writer.release("cut-readers");
    let after = other.acquire_in("1", "cut-permit");
    assert_eq!(after.words[1], "-", "the successor released it: {after:?}");
    other.acquire_in("shared", "cut-readers");
    let lead = |lost: &Answer, got: &Answer| (got.at - lost.at) / 1_000_000;
    println!(
        "FIGURE readers-cut: the reader stopped {} ms before the writer began, the permit {} ms before its next holder",
        lead(&lost[0], &written),
        lead(&lost[1], &taken)
    );
}

pub(crate) fn stopped_before(lost: &Answer, got: &Answer) {
    assert!(ended_by_the_clock(lost), "{lost:?}");
    let last_step: i64 = lost.words[2].parse().expect("a moment");
    assert!(last_step < got.at && lost.at < got.at, "{lost:?} {got:?}");
}

/// Checks that a writer begins after the lease of the server if the host of a reader loses its
/// power. The other reader keeps its part until it releases it.
pub(crate) fn power() {
    let (name, permit) = ("power-readers", "power-permit");
    rig("boot_d");
    let (mut d, mut b, mut writer) = (Peer::start("d", URL), Peer::start("b", URL), Peer::start("a", URL));
    let tokens = [&mut d, &mut b].map(|peer| peer.acquire_in("shared", name).token());
    d.acquire_in("1", permit);
    writer.tell(&format!("acquire {name}"));
    assert!(writer.within("acquired", name, A_WHILE).is_none(), "readers hold it");
    rig("kill_d");
    let killed = test_support::monotonic_nanos();
    let mut next = Peer::start("b", URL);
    let freed = next.acquire_in("1", permit);
    assert!(freed.words[1].starts_with("client-d:"), "the grant names the crashed holder: {freed:?}");
    still_holds(&mut b, name);
    assert!(writer.within("acquired", name, Duration::ZERO).is_none(), "b holds its part");
    b.release(name);
    let written = writer.expect("acquired", name);
    assert!(written.token() > tokens[1] && written.words[1].starts_with("client-d:"), "{written:?}");
    println!(
        "FIGURE readers-power: a permit was free {} ms after its host lost power",
        (freed.at - killed) / 1_000_000
    );
    writer.release(name);
    rig("boot_d");
    assert!(Peer::start("d", URL).tries_in("shared", name), "the host is back");
}

/// Checks that readers and holders of permits reclaim their parts after a restart of the server,
/// and that no writer comes between.
pub(crate) fn restart() {
    let (mut a, mut b, mut writer) = (Peer::start("a", URL), Peer::start("b", URL), Peer::start("b", URL));
    for peer in [&mut a, &mut b] {
        peer.acquire_in("shared", "restart-readers");
        peer.acquire_in("2", "restart-permits");
    }
    writer.tell("acquire restart-readers");
    assert!(writer.within("acquired", "restart-readers", A_WHILE).is_none(), "readers hold it");
    rig("restart_server");
    let got = writer.within("acquired", "restart-readers", Duration::from_secs(25));
    assert!(got.is_none(), "the parts were not reclaimed: {got:?}");
    let mut late = Peer::start("a", URL);
    assert!(!late.tries_in("shared", "restart-readers"), "the mark of the waiting writer was not reclaimed");
    assert!(!late.tries_in("2", "restart-permits"), "the permits were not reclaimed");
    for peer in [&mut a, &mut b] {
        still_holds(peer, "restart-readers");
        peer.release("restart-readers");
        peer.release("restart-permits");
    }
    assert_eq!(writer.expect("acquired", "restart-readers").words[1], "-");
    assert!(late.tries_in("2", "restart-permits"));
}

/// Checks that the next probe reports the loss after the server has forgotten a client that
/// reads. The reader on the other client keeps its part.
pub(crate) fn expired() {
    let name = "readers-expired";
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire_in("shared", name);
    b.acquire_in("shared", name);
    rig("expire a");
    let lost = a.expect("lost", name);
    assert_eq!(lost.words[0], "file_lock", "{lost:?}");
    assert!(lost.words[1].contains("the_NFS_server_dropped_the_lock"), "{lost:?}");
    still_holds(&mut b, name);
    a.tell(&format!("release {name}"));
    a.expect("notheld", name);
    let mut other = Peer::start("a", URL);
    assert!(!other.tries(name), "b reads");
    other.acquire_in("shared", name);
    b.release(name);
    other.release(name);
    assert!(b.tries(name), "a part of the lost reader is left");
    waiter_expired(&mut Peer::start("a", URL), &mut Peer::start("b", URL));
}

/// Checks that a waiting request keeps newcomers out again after the server has forgotten its
/// client.
fn waiter_expired(waiter: &mut Peer, reader: &mut Peer) {
    let name = "waiter-expired";
    reader.acquire_in("shared", name);
    waiter.tell(&format!("acquire {name} 2"));
    let mut late = Peer::start("b", URL);
    for event in ["true", "expire a"] {
        rig(event);
        let end = Instant::now() + SOON;
        while late.tries_in("shared", name) {
            late.tell(&format!("release {name}"));
            // On a busy machine the guest may be stopped for longer than the lease.
            late.first_of(&["released", "notheld"], name);
            assert!(Instant::now() < end, "after {event}: readers overtake the waiting request");
        }
    }
    reader.release(name);
    waiter.expect("acquired", name);
}

/// Checks that `flock -s` and the readers of Python's `fasteners` on the other client share a lock
/// with readers of onelock, that both exclude writers, and the other way round.
pub(crate) fn foreign() {
    let mut a = Peer::start("a", URL);
    let (name, path) = ("readers-foreign", "/efs/locks/readers-foreign.lock");
    let python = |kind: &str| {
        format!(
            "import sys; sys.path.insert(0, '/rig/bin'); import fasteners; \
             lock = fasteners.InterProcessReaderWriterLock('{path}'); \
             lock.acquire_{kind}_lock(blocking=False) or sys.exit(3)"
        )
    };
    let tries = |words: &[&str], script: &str| (succeeds("b", words), succeeds("b", &["python3", "-c", script]));
    let read = || tries(&["flock", "-n", "-s", path, "true"], &python("read"));
    let write = || tries(&["flock", "-n", "-x", path, "true"], &python("write"));
    a.acquire_in("shared", name);
    assert_eq!((read(), write()), ((true, true), (false, false)), "beside a reader of onelock");
    a.release(name);
    a.acquire_in("2", name);
    assert_eq!(write(), (false, false), "beside a permit of onelock");
    a.release(name);
    a.acquire(name);
    assert_eq!((read(), write()), ((false, false), (false, false)), "beside a writer of onelock");
    a.release(name);
    let stay = |kind: &str| {
        let script = format!("{}; print('held {name} 0', flush=True); import time; time.sleep(600)", python(kind));
        Peer::run("b", &["python3", "-c", &script])
    };
    let flock = |how: &str| {
        let held = format!("echo held {name} 0; exec sleep 600");
        Peer::run("b", &["flock", "-o", how, path, "sh", "-c", &held])
    };
    for start in [&(|| stay("read")) as &dyn Fn() -> Peer, &|| flock("-s")] {
        let mut holder = start();
        holder.expect("held", name);
        assert!(!a.tries(name) && !a.tries_in("2", name), "a foreign reader excludes writers and permits");
        assert!(a.tries_in("shared", name), "a foreign reader shares the lock");
        a.release(name);
        holder.kill();
        a.acquire(name);
        a.release(name);
    }
    for start in [&(|| stay("write")) as &dyn Fn() -> Peer, &|| flock("-x")] {
        let mut holder = start();
        holder.expect("held", name);
        assert!(
            !a.tries(name) && !a.tries_in("shared", name) && !a.tries_in("2", name),
            "a foreign writer excludes all"
        );
        holder.kill();
        a.acquire_in("shared", name);
        a.release(name);
    }
}
