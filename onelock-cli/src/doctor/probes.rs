//! The probes that work on any store.

use std::time::{Duration, Instant, SystemTime};

use lock_core::{
    Error, FencingToken, Guard, LockRequest, Locker, LossReason, Renew, TryAcquire,
    backend::{Break, Finding},
};
use tokio::time::{sleep, timeout};

use super::second_process::{SecondProcessOutcome, SecondProcesses};
use crate::{exit::Failure, live::LiveLine, probes, store::StoreLocation};

/// How many round trips are measured.
const ROUNDS: usize = 20;
/// In how many of the rounds the lock is renewed.
const RENEWALS: usize = 5;
/// The ttl of locks that the probes let expire or break.
const SHORT_TTL: Duration = Duration::from_secs(2);
/// How long to wait for an expected loss or expiry.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A larger difference between clocks is reported.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Two clients of one store, and the prefix of their lock names.
#[derive(Debug)]
pub(super) struct Probes<'a> {
    second_processes: SecondProcesses<'a>,
    ours: &'a Locker,
    other: &'a Locker,
    prefix: String,
    progress: &'a LiveLine,
}

impl<'a> Probes<'a> {
    pub(super) fn new(
        store: &'a StoreLocation,
        [ours, other]: [&'a Locker; 2],
        prefix: String,
        progress: &'a LiveLine,
    ) -> Self {
        Self { second_processes: SecondProcesses::new(store), ours, other, prefix, progress }
    }

    /// Shows what is checked now.
    pub(super) fn begin(&self, what: &str) {
        self.progress.set(&format!("onelock doctor: checking {what}"));
    }

    /// Runs all probes except the clock. The exit code is set if locks do not work at all.
    pub(super) async fn all(&self) -> (Vec<Finding>, Option<u8>) {
        self.begin("round trips (1 of 6)");
        let mut findings = match self.round_trips().await {
            Ok(findings) => findings,
            Err(failure) => return (vec![Finding::unfit("locks", self.told(&failure))], Some(failure.code)),
        };
        let mut note = |subject, found: Result<Finding, Failure>| {
            let not_tested = |failure| Finding::warning(subject, format!("not tested: {}", self.told(&failure)));
            findings.push(found.unwrap_or_else(not_tested));
        };
        self.begin("two clients (2 of 6)");
        note("two clients", self.two_clients().await);
        self.begin("two processes (3 of 6)");
        note("two processes", self.two_processes().await);
        self.begin("the loss of a lock (4 of 6)");
        note("loss", self.loss().await);
        self.begin("the expiry of a lock (5 of 6)");
        note("expiry", self.expiry().await);
        (findings, None)
    }

    /// Removes the names of the probes from the store, as far as the store supports it.
    ///
    /// A cancelled probe may have left its second process running, and that process may still
    /// create or release a lock.
    pub(super) async fn clean_up(&self) {
        self.second_processes.wait_idle().await;
        for name in ["rounds", "clients", "processes", "broken", "expired", "clock"] {
            let _ = self.ours.admin().purge(self.name(name)).await;
        }
    }

    /// Returns the text of a failure without the prefix of the names, which says nothing to a
    /// reader.
    fn told(&self, failure: &Failure) -> String {
        failure.to_string().replace(&self.prefix, "")
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn request(&self, locker: &Locker, name: &str) -> LockRequest {
        probes::request(locker, self.name(name))
    }

    /// Requests a lock that is about to be lost.
    fn short(&self, name: &str) -> LockRequest {
        probes::short_lived(self.ours, self.name(name), SHORT_TTL)
    }

    /// Acquires, renews and releases a lock, and checks times and tokens.
    async fn round_trips(&self) -> Result<Vec<Finding>, Failure> {
        let (mut acquire, mut renew, mut release) = (Vec::new(), Vec::new(), Vec::new());
        let (mut last, mut risen) = (None, true);
        for round in 0..ROUNDS {
            let started = Instant::now();
            let guard = match self.request(self.ours, "rounds").renew(Renew::Manual).try_acquire().await? {
                TryAcquire::Acquired(guard) => guard,
                TryAcquire::Contended(holder) => {
                    return Ok(vec![Finding::unfit(
                        "locks",
                        format!("after its release a lock is still held by {holder}"),
                    )]);
                }
            };
            let round_trip = started.elapsed();
            acquire.push(round_trip);
            risen &= guard.token() > last || guard.token().is_none();
            last = guard.token();
            if round < RENEWALS {
                renew.extend(renewal(&guard, round_trip).await?);
            }
            let started = Instant::now();
            let _ = guard.release().await?;
            release.push(started.elapsed());
        }
        let renewals = median(renew).map_or_else(|| "no renewal needed".into(), |time| format!("renew {time:.1?}"));
        let [acquire, release] = [acquire, release].map(|times| median(times).unwrap_or_default());
        let mut findings = vec![Finding::good(
            "locks",
            format!("acquire {acquire:.1?}, {renewals}, release {release:.1?} (median of {ROUNDS})"),
        )];
        if acquire * 2 > self.ours.timing().attempt_timeout {
            let text = format!(
                "an acquire takes {acquire:.1?}, more than half of the request timeout of {:?}",
                self.ours.timing().attempt_timeout
            );
            findings
                .push(Finding::warning("speed", text).advice("choose a longer ttl, or find out why the store is slow"));
        }
        findings.push(match (last, risen) {
            (None, _) => {
                Finding::note("tokens", "this store has none, so late writes of a former holder cannot be detected")
            }
            (Some(_), true) => Finding::good("tokens", "each token was larger than all before it"),
            (Some(_), false) => Finding::unfit("tokens", "a later holder got a token that was not larger"),
        });
        Ok(findings)
    }

    async fn two_clients(&self) -> Result<Finding, Failure> {
        const SUBJECT: &str = "two clients";
        let guard = self.request(self.ours, "clients").acquire().await?;
        if let TryAcquire::Acquired(second) = self.request(self.other, "clients").try_acquire().await? {
            let at_once = guard.check().is_ok() && second.check().is_ok();
            release_all([guard, second]).await?;
            return Ok(not_exclusive(SUBJECT, at_once, "two clients of one process"));
        }
        let token = guard.token();
        release_all([guard]).await?;
        let second = self.request(self.other, "clients").acquire().await?;
        let risen = token_rises(token, second.token());
        release_all([second]).await?;
        Ok(excluded(SUBJECT, "two clients of one process", risen))
    }

    async fn two_processes(&self) -> Result<Finding, Failure> {
        const SUBJECT: &str = "two processes";
        let guard = self.request(self.ours, "processes").acquire().await?;
        if let SecondProcessOutcome::Acquired(_) = self.second_processes.try_lock(&self.name("processes")).await? {
            let at_once = guard.check().is_ok();
            release_all([guard]).await?;
            return Ok(not_exclusive(SUBJECT, at_once, "two processes"));
        }
        let token = guard.token();
        release_all([guard]).await?;
        match self.second_processes.try_lock(&self.name("processes")).await? {
            SecondProcessOutcome::Acquired(second) => {
                Ok(excluded(SUBJECT, "two processes", token_rises(token, second)))
            }
            SecondProcessOutcome::Contended => {
                Ok(Finding::unfit(SUBJECT, "after its release a lock stayed held for another process"))
            }
        }
    }

    /// Breaks a lock, and waits until its holder is told.
    async fn loss(&self) -> Result<Finding, Failure> {
        const SUBJECT: &str = "loss";
        if !self.ours.capabilities().loss_signal {
            let text = "a holder is not told of a loss before another client can acquire the lock";
            return Ok(Finding::warning(SUBJECT, text).advice("let the protected resource compare fencing tokens"));
        }
        if !self.ours.capabilities().break_lock {
            return Ok(Finding::note(SUBJECT, "not tested: locks on this store cannot be broken"));
        }
        let guard = self.short("broken").acquire().await?;
        let Some(holder) = self.other.admin().inspect(self.name("broken")).await? else {
            release_all([guard]).await?;
            return Ok(Finding::unfit(SUBJECT, "the store does not show a held lock"));
        };
        let broken = self.other.admin().break_lock(self.name("broken"), &holder, "onelock doctor").await?;
        let started = Instant::now();
        let lost = timeout(EVENT_TIMEOUT, guard.lost()).await;
        let after = started.elapsed();
        release_all([guard]).await?;
        Ok(match (broken, lost) {
            (Break::Changed(_), _) => {
                Finding::warning(SUBJECT, "not tested: the lock changed before it could be broken")
            }
            (_, Ok(lost)) if matches!(lost.reason, LossReason::BrokenBy(_)) => Finding::good(
                SUBJECT,
                format!("the holder of a broken lock is told who broke it, in this test after {after:.1?}"),
            ),
            (_, Ok(lost)) => Finding::warning(
                SUBJECT,
                format!("the holder of a broken lock is told another reason: {}", lost.reason),
            ),
            (_, Err(_)) => Finding::unfit(SUBJECT, "the holder of a broken lock is not told of the loss"),
        })
    }

    /// Lets a lock expire, and checks that its guard ends before the next holder acquires it.
    async fn expiry(&self) -> Result<Finding, Failure> {
        const SUBJECT: &str = "expiry";
        if !self.ours.capabilities().ttl {
            return Ok(Finding::note(
                SUBJECT,
                "locks do not expire: each lasts until it is released or its holder dies",
            ));
        }
        let guard = self.short("expired").renew(Renew::Manual).acquire().await?;
        let token = guard.token();
        let next = self.request(self.other, "expired").acquire_within(EVENT_TIMEOUT).await?;
        let ended = guard.check().is_err();
        let TryAcquire::Acquired(next) = next else {
            let text = format!(
                "a lock with a ttl of {SHORT_TTL:?} that was not renewed was still held after {EVENT_TIMEOUT:?}"
            );
            return Ok(Finding::unfit(SUBJECT, text));
        };
        let risen = token_rises(token, next.token());
        release_all([guard, next]).await?;
        Ok(match (ended, risen) {
            (false, _) => Finding::unfit(SUBJECT, "a second client acquired the lock before the first guard had ended"),
            (_, false) => Finding::unfit(SUBJECT, "the token of the next holder was not larger"),
            _ => Finding::good(SUBJECT, "without renewals, a guard ends before another client acquires the lock"),
        })
    }

    /// Compares the time in the store's records with this machine's clock, if records show a time.
    pub(super) async fn clock(&self) -> Option<Finding> {
        let started = SystemTime::now();
        let guard = self.request(self.ours, "clock").acquire().await.ok()?;
        let ended = SystemTime::now();
        let holder = self.other.admin().inspect(self.name("clock")).await;
        release_all([guard]).await.ok()?;
        let since = holder.ok()??.since?;
        let (apart, direction) = match (since.duration_since(ended), started.duration_since(since)) {
            (Ok(ahead), _) => (ahead, "ahead of"),
            (_, Ok(behind)) => (behind, "behind"),
            _ => (Duration::ZERO, "off"),
        };
        let text = format!("the time in records is {:.1} s {direction} this machine's clock", apart.as_secs_f64());
        Some(if apart <= CLOCK_TOLERANCE {
            Finding::good("clock", text)
        } else {
            Finding::note("clock", text)
                .advice("synchronise the clocks: reports show the difference, and some stores compare times")
        })
    }
}

/// Renews once, and returns the time it took; `None` if the lock needs no renewal.
async fn renewal(guard: &Guard, round_trip: Duration) -> Result<Option<Duration>, Error> {
    let Some(left) = guard.remaining() else { return Ok(None) };
    // A renewal has no effect before some of the lease has passed, and that must be more than the
    // renewal itself takes.
    let used = (Duration::from_millis(20) + 4 * round_trip).min(left / 4);
    sleep(used).await;
    let started = Instant::now();
    guard.renew_if_below(left - used).await?;
    Ok(Some(started.elapsed()))
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

/// Whether the second token is larger, or the store has no tokens.
fn token_rises(first: Option<FencingToken>, second: Option<FencingToken>) -> bool {
    second > first || (first, second) == (None, None)
}

async fn release_all<const N: usize>(guards: [Guard; N]) -> Result<(), Error> {
    for guard in guards {
        // Some guards have lost their lock on purpose, and release nothing.
        let _ = guard.release().await?;
    }
    Ok(())
}

fn excluded(subject: &str, whom: &str, risen: bool) -> Finding {
    if risen {
        Finding::good(subject, format!("{whom} exclude each other"))
    } else {
        Finding::unfit(subject, format!("{whom} exclude each other, but the second holder's token was not larger"))
    }
}

fn not_exclusive(subject: &str, at_once: bool, whom: &str) -> Finding {
    if at_once {
        Finding::unfit(subject, format!("{whom} held the same lock at the same time"))
            .advice("choose a store that all of them share; see the findings below")
    } else {
        Finding::warning(subject, "not tested: the first holder lost its lock meanwhile").advice("choose a longer ttl")
    }
}
