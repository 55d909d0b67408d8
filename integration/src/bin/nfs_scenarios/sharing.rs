//! Scenarios with foreign programs, unsafe mounts, and calls that hang.

use std::{process::Command, thread::sleep, time::Duration};

use test_support::monotonic_nanos;

use crate::{URL, peer::Peer, rig};

pub(crate) fn succeeds(client: &str, words: &[&str]) -> bool {
    Command::new(format!("on_{client}")).args(words).status().expect("the rig's commands are on PATH").success()
}

/// Checks that `flock(1)` and Python's `filelock` on the other client exclude onelock, and the
/// other way round.
pub(crate) fn foreign() {
    let mut a = Peer::start("a", URL);
    let path = "/efs/locks/foreign.lock";
    let flock = ["flock", "-n", path, "true"];
    let python = "import sys; sys.path.insert(0, '/rig/bin'); import filelock; lock = filelock.FileLock(sys.argv[1], \
        timeout=0); lock.acquire()";
    let filelock = ["python3", "-c", python, path];
    a.acquire("foreign");
    assert!(!succeeds("b", &flock) && !succeeds("b", &filelock), "a foreign program acquired the lock of onelock");
    a.release("foreign");
    assert!(succeeds("b", &flock) && succeeds("b", &filelock), "a foreign program cannot acquire the free lock");
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
            .expect("the holder prints a line when it has the lock");
        assert_eq!(line, "held\n", "{holder}");
        assert!(!a.tries("foreign"), "onelock acquired the lock of {holder}");
        child.kill().expect("the holder is a child of this process");
        child.wait().expect("the holder is a child of this process");
        a.acquire("foreign");
        a.release("foreign");
    }
}

/// Checks that mounts on which a loss would not be noticed are refused. The error names the option
/// to change.
pub(crate) fn mounts() {
    let efs = "vers=4.1,hard,timeo=600,retrans=2,noresvport";
    let recover = "/sys/module/nfs/parameters/recover_lost_locks";
    // A read-only mount can be asked about its locks. An attempt to acquire one is refused.
    rig(&format!("remount_a {efs},ro"));
    let mut a = Peer::start("a", URL);
    a.tell("try read-only");
    let refused = a.expect("error", "read-only");
    assert!(refused.words[0].contains("the_file_system_is_read-only"), "{refused:?}");
    a.end();
    for (before, advice) in [
        ("remount_a vers=4.1,soft".to_owned(), "mount it with hard"),
        ("remount_a vers=4.1,softerr".to_owned(), "mount it with hard"),
        ("remount3_a nolock".to_owned(), "mount it with lock; "),
        ("remount3_a local_lock=flock".to_owned(), "mount it with local_lock=none"),
        ("remount3_a local_lock=all".to_owned(), "mount it with vers=4.1"),
        (format!("remount_a {efs}; echo Y >{recover}"), "recover_lost_locks=0"),
        (format!("echo N >{recover}; on_a umount /efs"), "not on an NFS mount"),
    ] {
        rig(&before);
        let refused = rig("on_a nfs_peer efs:///efs/locks </dev/null 2>&1 && exit 1; true");
        assert!(refused.contains(advice), "after {before}: {refused}");
    }
    // The directory under the mount may look like the one on it.
    for under in ["true", "on_a sh -c 'mkdir /efs/locks && touch /efs/locks/unmounted.lock'"] {
        rig("on_a mount --bind /mnt/a /efs");
        let mut a = Peer::start("a", "file:///efs/locks");
        a.acquire("unmounted");
        rig(&format!("on_a umount -l /efs && {under}"));
        let lost = a.expect("lost", "unmounted");
        assert_eq!(lost.words[0], "file_lock", "{lost:?}");
        assert!(lost.words[1].contains("was_unmounted"), "with {under}: {lost:?}");
    }
    rig("on_a rm -r /efs/locks && on_a mount --bind /mnt/a /efs");
}

/// Checks that a process whose calls hang can still end immediately.
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
    assert!(took < 5_000, "a hung call delayed the end of the process by {took} ms");
    println!("FIGURE hung: a process with a hung call ended in {took} ms");
    let refused = rig("on_b nfs_peer efs:///efs/locks </dev/null 2>&1 && exit 1; true");
    assert!(refused.contains("did not answer within 30s"), "{refused}");
    rig("heal_b");
}
