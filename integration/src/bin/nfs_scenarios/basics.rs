//! Scenarios with two clients and one lock.

use crate::{URL, peer::Peer};

/// Checks that clients exclude each other. After a release the other client acquires the lock, with
/// a larger token.
pub(crate) fn exclusion() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    let first = a.acquire("exclusion");
    b.tell("try exclusion");
    let refused = b.expect("held", "exclusion");
    assert!(refused.words[0].starts_with("client-a:"), "the refusal names the holder: {refused:?}");
    b.tell("acquire exclusion");
    a.release("exclusion");
    let second = b.expect("acquired", "exclusion");
    assert!(second.token() > first.token());
    assert_eq!(second.words[1], "-", "a released lock reports no crashed holder");
    assert!(!a.tries("exclusion"), "both clients have the lock");
    assert!(a.tries("another"), "names are independent");
}

/// Checks that SIGKILL of the holder frees the lock immediately, also for the other client.
pub(crate) fn killed() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("killed");
    b.tell("acquire killed");
    assert!(b.within("acquired", "killed", std::time::Duration::from_secs(1)).is_none());
    let killed = a.kill();
    let got = b.expect("acquired", "killed");
    assert!(got.words[1].starts_with("client-a:"), "the grant names the crashed holder: {got:?}");
    println!("FIGURE killed: the other client had the lock {} ms after SIGKILL", (got.at - killed) / 1_000_000);
}

/// Checks that a client whose cache has the record of the previous holder without the mark of its
/// release reports no crash.
///
/// While a process has a file open for writing, its client keeps what it read of the file.
pub(crate) fn unmarked() {
    const READER: &str = "exec 9<>/efs/locks/unmarked.info; cat <&9 >/dev/null; echo cached unmarked 0; sleep 1000";
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("unmarked");
    assert!(!b.tries("unmarked"));
    let mut reader = Peer::run("b", &["sh", "-c", READER]);
    reader.expect("cached", "unmarked");
    a.release("unmarked");
    let next = b.acquire("unmarked");
    assert_eq!(next.words[1], "-", "no process crashed: {next:?}");
}
