//! Tests which process may take over an unreleased lock, and when, to the microsecond and with
//! wrong clocks.

use std::time::Duration;

use lock_core::{
    ErrorKind,
    backend::{AcquireOutcome, Backend},
};
use lock_dynamo::Takeover;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use super::by_hand::{BOUND, Fate, TTL, World, granted, request, take};

const MICRO: Duration = Duration::from_micros(1);
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The recorded expiry of the lease of `name`.
fn expiry(world: &World, name: &str) -> Duration {
    Duration::from_millis(world.number(name, "expires_at").try_into().unwrap())
}

#[tokio::test]
async fn cold_process_takes_over_exactly_at_expiry_plus_bound() {
    let world = World::new();
    let lease = take(&world.process(0), "a").await;
    let free = expiry(&world, "a") + BOUND;
    assert!(free - world.now() - TTL - BOUND <= Duration::from_millis(1), "a millisecond for rounding");
    world.set(free - MICRO);
    let AcquireOutcome::Contended(holder) = world.process(0).acquire(&request("a")).await.unwrap() else {
        panic!("too early")
    };
    assert_eq!(holder.expires_in, Some(MICRO));
    world.set(free);
    let grant = granted(world.process(0).acquire(&request("a")).await);
    assert_eq!(grant.crashed.unwrap().token, lease.token);
}

#[tokio::test]
async fn observed_takeover_ignores_clocks_in_a_cold_process() {
    let world = World::new();
    take(&world.process(0), "a").await;
    world.pass(LONG);
    let cold = world.configured(0, |config| config.takeover(Takeover::Observed));
    let AcquireOutcome::Contended(holder) = cold.acquire(&request("a")).await.unwrap() else { panic!("unseen") };
    assert_eq!(holder.expires_in, Some(TTL));
}

#[tokio::test]
async fn warm_process_takes_over_exactly_after_a_watched_lease() {
    // The wall clock must not matter.
    for off in [0, -3_600_000, 3_600_000] {
        let world = World::new();
        let holder = world.process(0);
        let lease = take(&holder, "a").await;
        world.pass(Duration::from_secs(1));
        let warm = world.configured(off, |config| config.takeover(Takeover::Observed));
        let mut impatient = request("a");
        impatient.ttl = Duration::from_millis(1);
        assert!(matches!(warm.acquire(&impatient).await.unwrap(), AcquireOutcome::Contended(_)));
        world.pass(TTL - MICRO);
        let _ = holder.renew(&lease).await.unwrap();
        assert!(matches!(warm.acquire(&impatient).await.unwrap(), AcquireOutcome::Contended(_)), "a heartbeat");
        world.pass(TTL - MICRO);
        assert!(matches!(warm.acquire(&impatient).await.unwrap(), AcquireOutcome::Contended(_)), "{off}: too early");
        world.pass(MICRO);
        world.take_seen();
        assert!(granted(warm.acquire(&impatient).await).crashed.is_some(), "{off}");
        assert_eq!(world.take_seen()[..2], ["UpdateItem"; 2], "one attempt");
    }
}

#[tokio::test]
async fn two_wrong_clocks_never_end_a_valid_lease() {
    let clocks = [-3_600_000, -2_100, -1_900, -1_100, -900, -400, 0, 400, 900, 1_100, 1_900, 2_100, 3_600_000];
    let mut taken = 0;
    for holder in clocks {
        for contender in clocks {
            for fraction in [0, 330, 660, 990] {
                let world = World::new();
                world.pass(Duration::from_millis(fraction));
                let sent = world.now();
                let holding = world.process(holder);
                take(&holding, "a").await;
                world.set(sent + TTL - holding.timings().least_margin);
                let attempt = world.process(contender).acquire(&request("a")).await;
                let what = format!("the holder's clock is off by {holder} ms, the contender's by {contender}");
                assert!(!matches!(attempt, Ok(AcquireOutcome::Granted(_))), "robbed: {what}");
                // A contender with a good clock acquires the lock in the end.
                world.set(sent + TTL + 2 * BOUND);
                let attempt = world.process(contender).acquire(&request("a")).await;
                let is_granted = matches!(attempt, Ok(AcquireOutcome::Granted(_)));
                assert!(is_granted || contender.abs() > 900, "blocked: {what}: {attempt:?}");
                taken += u32::from(is_granted);
            }
        }
    }
    assert!(taken > 13 * 5 * 4);
}

/// Guards that end at least this long before their leases never overlap, and a shorter margin would
/// permit it: of the clocks that no date shows to be wrong, the worst two take up most of it.
#[tokio::test]
// verifies: least-margin
async fn least_margin_covers_two_undetected_wrong_clocks() {
    let world = World::new();
    let least = world.process(0).timings().least_margin;
    assert_eq!(least, Duration::from_millis(251));
    // The holder writes at the end of a second, the contender judges at the beginning of one.
    let ttl = TTL + Duration::from_millis(245);
    let mut longest = Duration::ZERO;
    for late in (-1_250..=-1_225).step_by(5) {
        for fraction in [680, 690] {
            let world = World::new();
            world.pass(Duration::from_millis(fraction));
            let sent = world.now();
            let mut held = request("a");
            held.ttl = ttl;
            granted(world.process(late).acquire(&held).await);
            for overlap in (200..=260).rev() {
                world.set(sent + ttl - Duration::from_millis(overlap));
                if let Ok(AcquireOutcome::Granted(_)) = world.process(1_000).acquire(&request("a")).await {
                    longest = longest.max(Duration::from_millis(overlap));
                    break;
                }
            }
        }
    }
    assert!(longest < least, "a guard with the least margin overlaps by {:?}", longest - least);
    assert!(longest > Duration::from_millis(200), "a smaller margin would do: {longest:?}");
}

#[tokio::test]
async fn wrong_clock_is_an_error_with_the_measured_skew() {
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    take(&world.process(0), "a").await;
    world.set(expiry(&world, "a") + BOUND + LONG);
    for (off, shown) in [(3_600_000, "by +3599.3 s"), (-3_600_000, "by -3599.7 s")] {
        let wrong = world.process(off);
        // Not at once: the first request of a clock that is ahead, or behind, must not decide
        // either.
        let error = wrong.acquire(&request("a")).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.is_retryable() && !error.is_ambiguous(), "{error}");
        assert!(error.to_string().contains(shown) && error.to_string().contains("skew bound 2s"), "{error}");
    }
    let all = metrics.snapshot().into_vec();
    let value = |name: &str| {
        let found = all.iter().find(|(key, ..)| key.key().name() == name).unwrap_or_else(|| panic!("no {name}"));
        let labels: Vec<_> = found.0.key().labels().map(|label| (label.key(), label.value())).collect();
        assert_eq!(labels, [("store", world.process(0).describe().as_str())], "{name}");
        &found.3
    };
    let DebugValue::Gauge(skew) = value("onelock_dynamodb_clock_skew_seconds") else { panic!("a gauge") };
    assert!((skew.into_inner() + 3_599.7).abs() < 0.05, "{skew}");
    assert_eq!(value("onelock_dynamodb_takeovers_refused_total"), &DebugValue::Counter(2));
}

#[tokio::test]
async fn only_a_clock_within_half_the_bound_decides() {
    // The store's time is the first moment of a second then, so a date shows no more than that a
    // clock is off by less than a second, ahead.
    for (off, may) in [(-1_000, true), (-1_001, false), (2_000, true), (2_001, false)] {
        let world = World::new();
        take(&world.process(0), "a").await;
        let free = expiry(&world, "a") + 2 * BOUND;
        world.set(Duration::from_secs(free.as_secs() + 1));
        let attempt = world.process(off).acquire(&request("a")).await;
        assert_eq!(matches!(attempt, Ok(AcquireOutcome::Granted(_))), may, "{off}: {attempt:?}");
    }
}

#[tokio::test]
async fn date_of_a_proxy_is_ignored() {
    let world = World::proxied();
    take(&world.process(0), "a").await;
    world.pass(LONG);
    let error = world.process(0).acquire(&request("a")).await.unwrap_err();
    assert!(error.to_string().contains("no Date header"), "{error}");
}

#[tokio::test]
async fn lock_with_min_hold_is_free_exactly_at_its_end() {
    let world = World::new();
    let holder = world.process(0);
    let lease = take(&holder, "a").await;
    let hold = Duration::from_secs(5);
    let _ = holder.release(&lease, hold).await.unwrap();
    let free = Duration::from_millis(world.number("a", "free_at").try_into().unwrap());
    assert!(free >= world.now() + hold && free <= world.now() + hold + Duration::from_millis(1));
    world.set(free - MICRO);
    assert!(matches!(world.process(0).acquire(&request("a")).await.unwrap(), AcquireOutcome::Contended(_)));
    world.set(free);
    assert_eq!(granted(world.process(0).acquire(&request("a")).await).crashed, None);
    assert!(!world.item("a").as_object().unwrap().contains_key("free_at"), "or it would look released again");
}

#[tokio::test]
async fn record_changed_since_judgement_is_not_taken_over() {
    for version in ["0", "z"] {
        let world = World::new();
        take(&world.process(0), "a").await;
        world.set(expiry(&world, "a") + BOUND);
        world.next(None);
        world.next(Fate::After(version));
        let attempt = world.process(0).acquire(&request("a")).await.unwrap();
        assert!(matches!(attempt, AcquireOutcome::Contended(_)), "{attempt:?}");
        assert_eq!(world.item("a")["version"]["S"], version);
    }
}
