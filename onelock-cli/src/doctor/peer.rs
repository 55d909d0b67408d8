//! `onelock doctor --peer`: checks whether two hosts exclude each other. Both contend for one lock
//! of the store.

use std::time::{Duration, Instant};

use lock_core::{
    Error, Guard, Locker, TryAcquire,
    backend::{Finding, Release},
};
use tokio::time::sleep;

use super::two_host_check::{Host, TwoHostCheck, Verdict};

/// The lock of both hosts. It is fixed, because they share nothing except the store.
const NAME: &str = "onelock-doctor/peer";
const SUBJECT: &str = "two hosts";
/// The subject of the finding about the identity by which a store distinguishes clients.
const IDENTITY: &str = "client identity";
/// The longest hold, several times as long as the other host's pause between attempts.
const HOLD: Duration = Duration::from_millis(1_500);
/// How many long holds follow the verdict, so that the other host reads it, unless it has its own
/// verdict earlier.
const EXTRA_HOLDS: u32 = 2;

/// How many attempts follow the discovery of a shared identity, so that the other host learns of
/// it. Both lose their locks then, and may never get a verdict.
const EXTRA_ATTEMPTS: u32 = 10;

/// How many errors in a row are tolerated that a retry does not fix.
const FAILURES: u32 = 3;

/// Contends with another host that does the same, until there is a verdict, and at most for
/// `within`. `known` are the findings about the store.
pub(super) async fn check_two_hosts(locker: &Locker, id: &str, within: Duration, known: &[Finding]) -> Finding {
    if !locker.capabilities().holder {
        let text = "not tested: this store, as configured, does not show who holds a lock";
        return Finding::warning(SUBJECT, text);
    }
    let mut check = TwoHostCheck::new(id.to_owned(), this_host(known));
    let end = Instant::now() + within;
    let (mut extra_holds, mut extra_attempts, mut failures) = (0, 0, 0);
    while Instant::now() < end {
        match try_once(locker, &mut check).await {
            Ok(held) => {
                failures = 0;
                extra_holds += u32::from(held && check.verdict().is_some());
            }
            Err(error) if error.is_retryable() => pause(500).await,
            // Without exclusion, two holders of the same lock disturb each other's records.
            Err(_) if failures < FAILURES => {
                failures += 1;
                pause(500).await;
            }
            Err(_) if check.shared_identity().is_some() => break,
            Err(error) => return Finding::warning(SUBJECT, format!("not tested: {error}")),
        }
        extra_attempts += u32::from(check.shared_identity().is_some());
        if extra_attempts > EXTRA_ATTEMPTS {
            break;
        }
        if check.verdict().is_some() && (check.other_knows() || extra_holds >= EXTRA_HOLDS) {
            break;
        }
    }
    finding(&check, within)
}

fn this_host(known: &[Finding]) -> Host {
    let name = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let identity = known.iter().find(|finding| finding.subject == IDENTITY).map(|finding| finding.text.clone());
    Host {
        name: name.unwrap_or_default(),
        boot: boot.unwrap_or_default().trim().to_owned(),
        identity: identity.unwrap_or_default(),
    }
}

/// Tries the lock once. Returns whether it was acquired, and held to the end.
async fn try_once(locker: &Locker, check: &mut TwoHostCheck) -> Result<bool, Error> {
    let request = locker.lock(NAME).min_hold(Duration::ZERO).data(check.data());
    match request.try_acquire().await? {
        TryAcquire::Contended(holder) => {
            check.note_refused(&holder);
            pause(150).await;
            Ok(false)
        }
        TryAcquire::Acquired(guard) => {
            check.note_granted(guard.token(), guard.crashed_holder());
            // The length is random. Otherwise two hosts without exclusion might stay in step, and
            // never observe each other's holds.
            let hold = if check.verdict().is_some() { 3 * HOLD } else { HOLD.mul_f64(0.3 + 0.7 * fastrand::f64()) };
            let kept = keep(guard, hold).await?;
            if kept {
                check.note_kept();
            }
            // Longer than the other host's pause, so that it can acquire the lock.
            pause(300).await;
            Ok(kept)
        }
    }
}

async fn keep(guard: Guard, hold: Duration) -> Result<bool, Error> {
    // Longer than the other host's pause, so that it observes this hold.
    let lost = guard.run(sleep(hold)).await.is_err();
    Ok(guard.release().await? == Release::Released && !lost)
}

/// Sleeps with jitter, so that two hosts do not stay in step.
async fn pause(millis: u64) {
    sleep(Duration::from_millis(millis + fastrand::u64(0..millis))).await;
}

fn finding(check: &TwoHostCheck, within: Duration) -> Finding {
    let within = humantime::format_duration(within);
    let Some(other) = check.other() else {
        let text = format!(
            "no other host was met within {within}: it did not run, or it uses another store, whose locks do not \
             exclude this host"
        );
        return Finding::unfit(SUBJECT, text).advice(
            "run the same command there at the same time; if it ran, compare directory, mount, server or table of \
             both hosts",
        );
    };
    if let Some(identity) = check.shared_identity() {
        let text = format!(
            "this host and {other} have the same client identity, so each ends the other's locks; on both hosts: \
             {identity}"
        );
        return Finding::unfit(SUBJECT, text).advice(
            "give each host its own name or its own identity: options nfs nfs4_unique_id=UUID in /etc/modprobe.d",
        );
    }
    match check.verdict() {
        Some(Verdict::Excluded) => Finding::good(
            SUBJECT,
            format!("this host and {other} exclude each other: each was refused while the other held the lock"),
        ),
        Some(Verdict::BothHeld) => {
            Finding::unfit(SUBJECT, format!("this host and {other} held the same lock at the same time"))
                .advice("do not use this store for locks between them; on files, check the mount options of both hosts")
        }
        Some(Verdict::TokensRegressed) => Finding::unfit(
            SUBJECT,
            format!("this host and {other} exclude each other, but a later holder got a smaller token"),
        ),
        None => Finding::unfit(SUBJECT, format!("{other} was met, but {within} was too short for a clear result"))
            .advice("run the doctor again on both hosts, with a longer --within"),
    }
}
