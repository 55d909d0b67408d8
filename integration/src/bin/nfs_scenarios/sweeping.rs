//! A scenario in which lock files are removed while processes use them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    URL,
    peer::{Answer, Peer},
};

const TIME: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["s0", "s1", "s2", "s3"];
/// A loop with Python's `filelock`, like `churn` of `nfs_peer` but without tokens.
const FILELOCK: &str = "
import sys, time
sys.path.insert(0, '/rig/bin')
import filelock
lock = filelock.FileLock('/efs/locks/' + sys.argv[1] + '.lock', poll_interval=0.02)
while True:
    with lock:
        start = time.monotonic_ns()
        time.sleep(0.02)
        end = time.monotonic_ns()
    print('cycle', sys.argv[1], 0, start, end, end, flush=True)
    time.sleep(0.1)
";

/// Checks that sweeps break neither exclusion nor the order of tokens.
///
/// Eight processes contend for four names, and `filelock` for two of them, while both clients sweep
/// without a pause.
pub(crate) fn sweeping() {
    // On a busy machine Python may take longer to start than the scenario lasts.
    let mut foreign = [("a", NAMES[0]), ("b", NAMES[1])].map(|(client, name)| {
        let mut peer = Peer::run(client, &["python3", "-c", FILELOCK, name]);
        let first = peer.expect("cycle", name);
        (peer, first)
    });
    let mut peers: Vec<_> = (0..8).map(|i| Peer::start(if i % 2 == 0 { "a" } else { "b" }, URL)).collect();
    for (i, peer) in peers.iter_mut().enumerate() {
        peer.tell(&format!("churn {}", NAMES[i / 2]));
    }
    let mut sweepers = [Peer::start("a", URL), Peer::start("b", URL)];
    sweepers.iter_mut().for_each(|peer| peer.tell("sweep /efs/locks"));
    let end = Instant::now() + TIME;
    let mut said: Vec<Answer> = peers.iter_mut().chain(&mut sweepers).flat_map(|peer| peer.all_until(end)).collect();
    for (peer, first) in &mut foreign {
        said.push(first.clone());
        said.extend(peer.all_until(end));
    }
    let errors: Vec<_> = said.iter().filter(|answer| answer.what == "error").collect();
    assert!(errors.is_empty(), "{errors:?}");
    let removed: u64 = said.iter().filter(|answer| answer.what == "swept").map(Answer::token).sum();
    let mut cycles: BTreeMap<&str, Vec<[i64; 3]>> = BTreeMap::new();
    for cycle in said.iter().filter(|answer| answer.what == "cycle") {
        let numbers: Vec<i64> = cycle.words.iter().map(|word| word.parse().expect("a number")).collect();
        cycles.entry(&cycle.name).or_default().push([numbers[1], numbers[2], numbers[0]]);
    }
    let (mut total, mut by_filelock) = (0, 0);
    for (name, cycles) in &mut cycles {
        cycles.sort_unstable();
        total += cycles.len();
        for pair in cycles.windows(2) {
            assert!(pair[0][1] < pair[1][0], "two processes held {name} at the same time: {pair:?}");
        }
        let ours: Vec<_> = cycles.iter().filter(|cycle| cycle[2] > 0).collect();
        by_filelock += cycles.len() - ours.len();
        for pair in ours.windows(2) {
            assert!(pair[0][2] < pair[1][2], "a token of {name} decreased: {pair:?}");
        }
    }
    assert!(
        cycles.len() == NAMES.len() && removed > 0,
        "the scenario did too little: {} names, {removed} swept",
        cycles.len()
    );
    println!(
        "FIGURE sweeping: {total} acquisitions, {by_filelock} of them by filelock, and {removed} removed names in \
         {TIME:?}; no overlap, no token decreased"
    );
}
