//! A scenario with two clients whose tasks hand a lock over among themselves.

use std::time::{Duration, Instant};

use test_support::hand_over::{assert_even, turns};

use crate::{
    URL,
    modes::{still_holds, stopped_before},
    peer::{Answer, Peer, SOON},
    rig,
};

/// The most hand-overs in a row. A series is about as long as the first pause of a waiter.
const HAND_OVER: u32 = 20;
/// After how many turns the shares of both clients are compared.
const TURNS: usize = 20;

/// Checks that two clients with `hand_over` share a lock, and that one client goes on if the
/// process of the other one is killed. A task that was handed the lock stops before the next holder
/// begins if its client is cut off.
pub(crate) fn handing_over() {
    let name = "handing-over";
    let url = format!("{URL}?hand_over={HAND_OVER}");
    let mut peers = ["a", "b"].map(|client| Peer::start(client, &url));
    peers.iter_mut().for_each(|peer| peer.tell(&format!("share {name}")));
    let mut holds = share(&mut peers);
    let [mut a, mut b] = peers;
    let killed = b.kill();
    holds.extend(holds_until(&mut b, Instant::now()));
    let went_on = |holds: &[Answer]| holds.iter().any(|hold| moment(hold, 1) > killed);
    let end = Instant::now() + SOON;
    while !went_on(&holds) {
        assert!(Instant::now() < end, "the process that was killed still has the lock");
        holds.extend(holds_until(&mut a, Instant::now() + Duration::from_millis(50)));
    }
    a.tell(&format!("keep {name}"));
    let kept = a.expect("acquired", name);
    rig("cut_a");
    let mut next = Peer::start("b", URL);
    next.tell(&format!("acquire {name}"));
    let (lost, got) = (a.expect("lost", name), next.expect("acquired", name));
    stopped_before(&lost, &got);
    assert!(got.words[1].starts_with("client-a:"), "the grant names the holder that was cut off: {got:?}");
    rig("heal_a");
    a.wait_until_up();
    a.tell(&format!("release {name}"));
    a.expect("notheld", name);
    assert!(!Peer::start("a", URL).tries(name), "the release of the lost lock freed the successor's");
    still_holds(&mut next, name);
    holds.extend(a.all_until(Instant::now()).into_iter().filter(|answer| answer.what == "cycle"));
    exclude_each_other(holds, [&kept, &got]);
}

/// Lets two clients share the lock, and returns their holds.
fn share(peers: &mut [Peer; 2]) -> Vec<Answer> {
    let (began, mut holds) = (Instant::now(), [Vec::new(), Vec::new()]);
    let turns = loop {
        for (peer, holds) in peers.iter_mut().zip(&mut holds) {
            holds.extend(holds_until(peer, Instant::now() + Duration::from_millis(100)));
        }
        let turns = turns(&holds.each_ref().map(|holds| holds.iter().map(Answer::token).collect()));
        if turns.len() >= TURNS || began.elapsed() > 3 * SOON {
            break turns;
        }
    };
    let share = |process| turns.iter().filter(|turn| turn.0 == process).map(|turn| turn.1).sum::<usize>();
    let lengths: Vec<_> = turns.iter().map(|turn| turn.1).collect();
    println!(
        "FIGURE handing-over: {} and {} holds in {} turns, {} ms: {lengths:?}",
        share(0),
        share(1),
        turns.len(),
        began.elapsed().as_millis()
    );
    assert_even(&turns, TURNS);
    holds.concat()
}

/// Returns the holds of a client until `end`.
fn holds_until(peer: &mut Peer, end: Instant) -> Vec<Answer> {
    let said = peer.all_until(end);
    let other = said.iter().find(|answer| answer.what != "cycle");
    assert!(other.is_none(), "{other:?}");
    said
}

/// Checks that no two holds overlap, and that the token of each is larger than all before it.
fn exclude_each_other(mut holds: Vec<Answer>, last: [&Answer; 2]) {
    holds.sort_unstable_by_key(|hold| moment(hold, 1));
    for (hold, next) in holds.iter().zip(&holds[1..]) {
        assert!(moment(hold, 2) < moment(next, 1) && hold.token() < next.token(), "{hold:?} {next:?}");
    }
    let [latest, kept, got] = [holds.last().expect("there are holds"), last[0], last[1]];
    assert!(moment(latest, 2) < kept.at && latest.token() < kept.token(), "{latest:?} {kept:?}");
    assert!(kept.token() < got.token(), "{kept:?} {got:?}");
}

/// Returns a moment of a hold: word 1 is its begin, word 2 its end.
fn moment(hold: &Answer, word: usize) -> i64 {
    hold.words[word].parse().expect("a moment")
}
