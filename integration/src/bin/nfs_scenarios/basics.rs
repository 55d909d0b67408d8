//! Two clients, one lock.

use crate::{URL, peer::Peer};

/// A lock of either client is refused to the other, and a release lets the other have it, with a
/// larger token.
pub(crate) fn exclusion() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    let first = a.acquire("exclusion");
    b.tell("try exclusion");
    let refused = b.expect("held", "exclusion");
    assert!(refused.words[0].starts_with("client-a:"), "who has it is told at once: {refused:?}");
    b.tell("acquire exclusion");
    a.release("exclusion");
    let second = b.expect("acquired", "exclusion");
    assert!(second.token() > first.token());
    assert_eq!(second.words[1], "-", "who released the lock did not crash");
    assert!(!a.tries("exclusion"), "both clients have the lock");
    assert!(a.tries("another"), "names are independent");
}

/// SIGKILL of the holder frees the lock at once, for the other client.
pub(crate) fn killed() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    a.acquire("killed");
    b.tell("acquire killed");
    assert!(b.within("acquired", "killed", std::time::Duration::from_secs(1)).is_none());
    let killed = a.kill();
    let got = b.expect("acquired", "killed");
    assert!(got.words[1].starts_with("client-a:"), "who crashed is told: {got:?}");
    println!("FIGURE killed: the other client had the lock {} ms after SIGKILL", (got.at - killed) / 1_000_000);
}
