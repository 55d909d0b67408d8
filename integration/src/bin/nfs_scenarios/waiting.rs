//! A scenario that measures the cost of waiting and the time of a hand-off.

use std::{collections::HashMap, thread::sleep, time::Duration};

use crate::{URL, peer::Peer, rig};

/// How many processes of client B wait at the same time, in each step.
const WAITERS: [usize; 3] = [1, 16, 64];

/// Checks that a waiter acquires a released lock soon, however long it has waited. Many waiters
/// must not overload a shared file system.
pub(crate) fn waiting() {
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
    hand_off(&mut a, &mut b);
    a.acquire("waiting");
    b.tell("acquire waiting");
    let mut waiters = vec![b];
    for wanted in WAITERS {
        let new = (waiters.len()..wanted).map(|_| Peer::start("b", URL));
        let mut new: Vec<_> = new.collect();
        new.iter_mut().for_each(|peer| peer.tell("acquire waiting"));
        waiters.extend(new);
        // Waiters begin with short pauses.
        sleep(Duration::from_secs(8));
        let (sent, kinds) = requests_in(Duration::from_secs(15));
        let each = sent as f64 / 15.0 / wanted as f64;
        println!(
            "FIGURE waiting: {wanted} waiting: {each:.2} requests/s each, {:.1} in all {kinds}",
            sent as f64 / 15.0
        );
        // A waiter sends one request every second or two, and rarely reads the record of the
        // holder. Reading it with each try would take four times as many requests, and polling at
        // the shortest pause forty times as many. The bound lies in between, because a busy machine
        // starts the processes slowly.
        assert!(each < 2.0, "{wanted} waiters send {each} requests a second each");
    }
}

fn hand_off(a: &mut Peer, b: &mut Peer) {
    let mut delays: Vec<_> = [100, 300, 1_000, 3_000, 5_000, 8_000]
        .into_iter()
        .map(|held| {
            a.acquire("waiting");
            b.tell("acquire waiting");
            sleep(Duration::from_millis(held));
            let released = a.release("waiting");
            let got = b.expect("acquired", "waiting");
            b.release("waiting");
            (got.at - released.at) / 1_000_000
        })
        .collect();
    let listed = format!("{delays:?}");
    delays.sort_unstable();
    println!("FIGURE waiting: hand-off after holds of 0.1 to 8 s: {listed} ms, median {} ms", delays[delays.len() / 2]);
}

/// The requests of client B's mount until now, by name.
fn requests() -> HashMap<String, u64> {
    let text = rig("rpcs_b");
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(op, n)| (op.into(), n.trim().parse().expect("a number")))
        .collect()
}

fn requests_in(time: Duration) -> (u64, String) {
    let before = requests();
    sleep(time);
    let mut grown: Vec<_> = requests().into_iter().map(|(op, n)| (n - before.get(&op).unwrap_or(&0), op)).collect();
    grown.retain(|(n, _)| *n > 0);
    grown.sort_unstable_by(|a, b| b.cmp(a));
    (grown.iter().map(|(n, _)| n).sum(), format!("{grown:?}"))
}
