//! A scenario that counts the requests of a lock for which no client waits.

use std::{array, collections::BTreeMap, thread::sleep, time::Duration};

use crate::{URL, peer::Peer};

/// What a free lock costs, and one that another client holds in the same mode: the name of the
/// case, the mode, and whether the other client holds it.
const CASES: [(&str, &str, bool); 6] = [
    ("exclusive", "", false),
    ("fair", "fair", false),
    ("shared", "shared", false),
    ("shared beside another", "shared", true),
    ("permit", "4", false),
    ("permit beside another", "4", true),
];
/// The name of the case, the mode of the holder, and that of the attempt.
const REFUSALS: [(&str, &str, &str); 4] = [
    ("exclusive", "", ""),
    ("exclusive beside shared", "shared", ""),
    ("shared beside exclusive", "", "shared"),
    ("permit", "1", "1"),
];
/// The mode of what a new process acquires, or is refused.
const PROCESSES: [(&str, &str, &str); 3] = [
    ("exclusive: whole process", "", "process-exclusive"),
    ("shared: whole process", "shared", "process-shared"),
    ("exclusive: whole process, refused", "", "refused-exclusive"),
];
/// No renewal falls between two counts.
const OPTIONS: &str = "?renew=manual";
/// Longer than renewals and releases share what they asked about the directory.
const APART: Duration = Duration::from_millis(600);
/// How often a case is repeated. The first cycles make the files and fill the cache of the client.
const CYCLES: usize = 6;

type Counts = BTreeMap<String, u64>;

/// Prints the requests of each step as `COST CASE: STEP NUMBER`.
pub(crate) fn costs() {
    let url = format!("{URL}{OPTIONS}");
    let (mut peer, mut other) = (Peer::start("a", &url), Peer::start("b", URL));
    for (case, mode, beside) in CASES {
        let name = format!("costs-{}", case.replace(' ', "-"));
        if beside {
            other.acquire_in(mode, &name);
        }
        let steps = least(|| cycle(&mut peer, mode, &name));
        for (step, requests) in ["acquire", "renew", "release"].iter().zip(&steps) {
            println!("COST {case}: {step} {}", sum(requests));
        }
        for (what, operation) in [("data reads", "READ"), ("data writes", "WRITE")] {
            let [acquire, _, release] = &steps;
            let sum: u64 = [acquire, release].iter().filter_map(|step| step.get(operation)).sum();
            println!("COST {case}: {what} of acquire and release {sum}");
        }
    }
    for (case, held, mode) in REFUSALS {
        let name = format!("refused-{}", case.replace(' ', "-"));
        other.acquire_in(held, &name);
        let [refused] = least(|| {
            let before = counts(&mut peer);
            assert!(!peer.tries_in(mode, &name), "{name} is held");
            [since(&before, &counts(&mut peer))]
        });
        println!("COST {case}: refused {}", sum(&refused));
    }
    for (case, mode, name) in PROCESSES {
        let [requests] = least(|| {
            let before = counts(&mut peer);
            let mut process = Peer::start("a", &url);
            if process.tries_in(mode, name) {
                process.release(name);
            }
            process.end();
            [since(&before, &counts(&mut peer))]
        });
        println!("COST {case} {}", sum(&requests));
    }
}

/// Returns the least that each step of a cycle costs. A step costs more if the time of attributes
/// in the cache has passed, which depends on how fast the machine is.
fn least<const STEPS: usize>(mut cycle: impl FnMut() -> [Counts; STEPS]) -> [Counts; STEPS] {
    let cycles: Vec<_> = (0..CYCLES).map(|_| cycle()).collect();
    println!("{cycles:?}");
    let of_step = |step| cycles.iter().map(|cycle: &[Counts; STEPS]| &cycle[step]).min_by_key(|counts| sum(counts));
    array::from_fn(|step| of_step(step).expect("there are cycles").clone())
}

/// Counts the requests of an acquisition, a renewal and a release.
fn cycle(peer: &mut Peer, mode: &str, name: &str) -> [Counts; 3] {
    let before = counts(peer);
    peer.acquire_in(mode, name);
    let acquired = counts(peer);
    peer.tell(&format!("renew {name}"));
    peer.expect("renewed", name);
    let renewed = counts(peer);
    sleep(APART);
    peer.release(name);
    let released = counts(peer);
    [since(&before, &acquired), since(&acquired, &renewed), since(&renewed, &released)]
}

/// Returns the requests of the peer's client until now, by operation.
fn counts(peer: &mut Peer) -> Counts {
    peer.tell("requests");
    let count = |word: &String| {
        let (operation, number) = word.split_once('=').expect("an operation and a number");
        (operation.to_owned(), number.parse().expect("a number"))
    };
    peer.expect("requests", "-").words.iter().map(count).collect()
}

fn since(before: &Counts, after: &Counts) -> Counts {
    let grown = after.iter().map(|(operation, n)| (operation.clone(), n - before.get(operation).unwrap_or(&0)));
    grown.filter(|(_, n)| *n > 0).collect()
}

fn sum(counts: &Counts) -> u64 {
    counts.values().sum()
}
