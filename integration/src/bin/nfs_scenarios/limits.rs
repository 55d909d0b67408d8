//! Scenarios in which a store reaches a limit.

use std::{iter, path::Path, time::Duration};

use nix::sys::quota::{Dqblk, QuotaType, QuotaValidFlags, quotactl_set};

use crate::{URL, peer::Peer, rig};

/// The user of the rig with a quota.
const USER: u32 = 1000;

/// Checks that an exhausted quota is reported with the limits of EFS. Locks that are held stay
/// held, and can be released.
pub(crate) fn quota() {
    rig("on_a mkdir -p /efs/quota && on_a chown 1000:1000 /efs/quota");
    let runner = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let mut a = Peer::start_as("a", &runner, "efs:///efs/quota");
    let first = a.acquire("held");
    // The current number of files, so that no file can be added.
    let used: u64 = rig("find /srv/nfs -user 1000 | wc -l").trim().parse().expect("a number");
    limit_files(used);
    a.tell("try more");
    let refused = a.first_of(&["error", "acquired", "held"], "more");
    assert_eq!(refused.what, "error", "{refused:?}");
    for words in ["a_quota_is_exhausted", "512_on_one_file"] {
        assert!(refused.words[0].contains(words), "{refused:?}");
    }
    a.release("held");
    // A name that has a lock file can be locked, as with flock(1).
    let second = a.acquire("held");
    assert!(second.token() > first.token());
    assert_eq!(second.words[1], "-", "{second:?}");
    let mut b = Peer::start_as("b", &runner, "efs:///efs/quota");
    assert!(!b.tries("held"), "the lock without a record excludes no other client");
    a.release("held");
    let third = b.acquire("held");
    assert!(third.token() > second.token());
    b.release("held");
    limit_files(0);
    let fourth = b.acquire("held");
    assert!(fourth.token() > third.token());
    b.release("held");
    a.acquire("more");
    a.release("more");
}

/// Sets how many files the user may have; zero means no limit.
fn limit_files(files: u64) {
    let mut quota = Dqblk::default();
    quota.set_inodes_hard_limit(files);
    quota.set_inodes_soft_limit(files);
    let device = Path::new("/dev/loop0");
    quotactl_set(QuotaType::USRQUOTA, device, USER as i32, &quota, QuotaValidFlags::QIF_ILIMITS)
        .expect("the rig's file system has quotas");
}

/// Checks that a process is warned before it holds as many locks as EFS allows. A shared lock and a
/// permit have two locked files each.
///
/// If a busy machine stops the guest for longer than the lease, the peer loses some locks, and is
/// warned later.
pub(crate) fn many() {
    let mut a = Peer::start("a", URL);
    for i in 0..100 {
        assert!(a.tries(&format!("many-{i}")));
        assert!(!is_warned(&mut a), "after {i} locks");
    }
    let warns = |i: &usize| {
        assert!(a.tries_in(["shared", "2"][i % 2], &format!("many-parts-{i}")));
        is_warned(&mut a)
    };
    let parts = (1..=200).find(warns);
    assert!(parts.is_some_and(|parts| (50..100).contains(&parts)), "warned after 100 locks and {parts:?} parts");
}

/// Returns whether the peer was warned of the limit since the last call. There are warnings of slow
/// calls too.
fn is_warned(peer: &mut Peer) -> bool {
    iter::from_fn(|| peer.within("warning", "-", Duration::ZERO)).any(|warning| warning.words[0].contains("256"))
}
