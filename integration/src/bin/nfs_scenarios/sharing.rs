//! Together with others: foreign programs, unsafe mounts, many waiters.

use std::{collections::HashMap, process::Command, thread::sleep, time::Duration};

use integration::monotonic_nanos;

use crate::{URL, peer::Peer, rig};

fn succeeds(client: &str, words: &[&str]) -> bool {
    Command::new(format!("on_{client}")).args(words).status().expect("the rig's commands are on PATH").success()
}

/// `flock(1)` and Python's `filelock` on the other client exclude us, and we them.
pub(crate) fn foreign() {
    let mut a = Peer::start("a", URL);
    let path = "/efs/locks/foreign.lock";
    let flock = ["flock", "-n", path, "true"];
    let python = "import sys; sys.path.insert(0, '/rig/bin'); import filelock; lock = filelock.FileLock(sys.argv[1], timeout=0); lock.acquire()";
    let filelock = ["python3", "-c", python, path];
    a.acquire("foreign");
    assert!(!succeeds("b", &flock) && !succeeds("b", &filelock), "a foreign program got our lock");
    a.release("foreign");
    assert!(succeeds("b", &flock) && succeeds("b", &filelock), "a foreign program does not get the free lock");
    for holder in [
        format!("exec on_b flock -o {path} sh -c 'echo held; exec sleep 60'"),
        format!("exec on_b python3 -c \"{python}; print('held', flush=True); import time; time.sleep(60)\" {path}"),
    ] {
        let mut child = Command::new("bash")
            .args(["-c", &holder])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("bash is there");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)
            .expect("it says when it has the lock");
        assert_eq!(line, "held\n", "{holder}");
        assert!(!a.tries("foreign"), "we got the lock of {holder}");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        a.acquire("foreign");
        a.release("foreign");
    }
}

/// Mounts on which a loss could not be noticed are refused, with the option to change.
pub(crate) fn mounts() {
    let efs = "vers=4.1,hard,timeo=600,retrans=2,noresvport";
    let recover = "/sys/module/nfs/parameters/recover_lost_locks";
    for (before, advice) in [
        ("remount_a vers=4.1,soft".to_owned(), "mount it with hard"),
        ("remount_a vers=4.1,softerr".to_owned(), "mount it with hard"),
        (format!("remount_a {efs},ro"), "read-only"),
        (format!("remount_a {efs}; echo Y >{recover}"), "recover_lost_locks=0"),
        (format!("echo N >{recover}; on_a umount /efs"), "not on an NFS mount"),
    ] {
        rig(&before);
        let refused = rig("on_a nfs_peer efs:///efs/locks </dev/null 2>&1 && exit 1; true");
        assert!(refused.contains(advice), "after {before}: {refused}");
    }
    rig("on_a mount --bind /mnt/a /efs");
    let mut a = Peer::start("a", "file:///efs/locks");
    a.acquire("unmounted");
    rig("on_a umount -l /efs");
    let lost = a.expect("lost", "unmounted");
    assert!(lost.words[1].contains("unmounted"), "{lost:?}");
    rig("on_a mount --bind /mnt/a /efs");
}

/// A process whose calls hang ends at once.
pub(crate) fn hung() {
    let mut b = Peer::start("b", URL);
    assert!(b.tries("hung"));
    b.release("hung");
    rig("cut_b");
    b.tell("try hung");
    sleep(Duration::from_secs(5));
    let began = monotonic_nanos();
    b.end();
    let took = (monotonic_nanos() - began) / 1_000_000;
    assert!(took < 5_000, "a hung call held the end of the process up for {took} ms");
    println!("FIGURE hung: a process with a hung call ended in {took} ms");
    rig("heal_b");
}

/// The requests of client B's mount until now, by name.
fn requests() -> HashMap<String, u64> {
    let text = rig("rpcs b");
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

/// What waiting costs, and how soon a waiter has the lock after its release.
pub(crate) fn waiting() {
    const WAITERS: u64 = 64;
    let (mut a, mut b) = (Peer::start("a", URL), Peer::start("b", URL));
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
    a.acquire("waiting");
    b.tell("acquire waiting");
    sleep(Duration::from_secs(6));
    let (one, kinds) = requests_in(Duration::from_secs(10));
    println!("FIGURE waiting: one waiter: {} requests/s {kinds}", one as f64 / 10.0);
    let mut others: Vec<_> = (1..WAITERS).map(|_| Peer::start("b", URL)).collect();
    others.iter_mut().for_each(|peer| peer.tell("acquire waiting"));
    sleep(Duration::from_secs(10));
    let (all, kinds) = requests_in(Duration::from_secs(10));
    println!("FIGURE waiting: {WAITERS} waiting processes: {} requests/s {kinds}", all as f64 / 10.0);
    // Each backs off to a try of three requests every one or two seconds; polling at the shortest pause would be thousands. Between them,
    // because a busy machine starts the processes so slowly that some have not backed off yet.
    assert!(all / 10 <= 10 * WAITERS, "{WAITERS} waiters send {} requests a second", all / 10);
}
