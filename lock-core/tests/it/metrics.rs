//! Every metric that operators watch is recorded.

use std::collections::BTreeMap;

use crate::fixture::*;
use lock_core::{ErrorKind, Operation, Renew, faults::Fault};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::{
    runtime::Builder,
    task::yield_now,
    time::{sleep, timeout},
};

/// Returns all counters and the sample counts of all histograms, as `name{label=value}` without
/// the label of the store. Each of them must have that label, a help text and a unit.
fn counted(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let metrics = snapshotter.snapshot().into_vec().into_iter().map(|(key, unit, help, value)| {
        let key = key.key();
        let unit = unit.unwrap_or_else(|| panic!("{} has no unit", key.name()));
        assert_eq!(unit.as_str() == "seconds", key.name().ends_with("_seconds"), "{}", key.name());
        assert!(help.is_some_and(|help| help.ends_with('.')), "{} has no help text", key.name());
        let mut labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        assert_eq!(labels.remove(0), "store=memory:", "{}", key.name());
        let count = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(samples) => samples.len() as u64,
            DebugValue::Gauge(_) => panic!("there are no gauges"),
        };
        (format!("{}{{{}}}", key.name(), labels.join(",")), count)
    });
    metrics.collect()
}

/// Returns what `work` counted, also while its runtime ended.
fn counts_of(work: impl AsyncFnOnce()) -> BTreeMap<String, u64> {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work());
        drop(runtime);
    });
    counted(&recorder.snapshotter())
}

fn table<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

#[test]
fn every_outcome_of_a_lock_is_counted_once() {
    let counts = counts_of(async || {
        let fixture = Fixture::new();
        fixture.network.next(Operation::Acquire, Fault::LoseReply);
        let guard = fixture.guard().await;
        let _ = fixture.locker.try_acquire(NAME).await.unwrap();
        sleep(secs(11)).await;
        fixture.network.next(Operation::Release, Fault::LoseReply);
        release(guard).await;
        drop(fixture.guard().await);
        fixture.freed_after().await;
        let guard = fixture.guard().await;
        fixture.store.lose(NAME);
        guard.lost().await;
        drop(guard);
        sleep(secs(1)).await;
    });
    let expected = [
        ("onelock_ambiguous_resolved_total{operation=acquire,as=acquired}", 1),
        ("onelock_ambiguous_resolved_total{operation=release,as=released}", 1),
        ("onelock_attempts_total{outcome=acquired}", 3),
        ("onelock_attempts_total{outcome=error}", 1),
        ("onelock_attempts_total{outcome=contended}", 1),
        ("onelock_guards_dropped_total{then=background}", 2),
        ("onelock_hold_seconds{}", 3),
        ("onelock_losses_total{reason=record_gone}", 1),
        ("onelock_renewals_total{outcome=lost}", 1),
        ("onelock_renewals_total{outcome=renewed}", 1),
        ("onelock_wait_seconds{outcome=acquired}", 3),
        ("onelock_wait_seconds{outcome=contended}", 1),
    ];
    assert_eq!(counts, table(expected));
}

#[test]
fn late_grants_count_no_loss_and_refusals_no_ambiguity() {
    let counts = counts_of(async || {
        let fixture = Fixture::with(|b| b.ttl(secs(1)).renew(Renew::Manual));
        fixture.network.next(Operation::Acquire, Fault::LoseReply);
        fixture.network.next(Operation::Acquire, Fault::LoseReply);
        fixture.network.next(Operation::Acquire, Fault::DelayReply(ms(350)));
        fixture.locker.try_acquire(NAME).await.unwrap_err();
        fixture.freed_after().await;
        fixture.network.next(Operation::Acquire, Fault::Refuse(ErrorKind::Throttled));
        let guard = fixture.guard().await;
        sleep(ms(100)).await;
        fixture.network.next(Operation::Renew, Fault::Refuse(ErrorKind::Throttled));
        guard.renew_if_below(ms(750)).await.unwrap();
        release(guard).await;
    });
    let expected = [
        ("onelock_ambiguous_resolved_total{operation=acquire,as=acquired}", 1),
        ("onelock_attempts_total{outcome=acquired}", 2),
        ("onelock_attempts_total{outcome=error}", 2),
        ("onelock_attempts_total{outcome=throttled}", 1),
        ("onelock_hold_seconds{}", 1),
        ("onelock_renewals_total{outcome=throttled}", 1),
        ("onelock_renewals_total{outcome=renewed}", 1),
        ("onelock_wait_seconds{outcome=acquired}", 1),
        ("onelock_wait_seconds{outcome=error}", 1),
    ];
    assert_eq!(counts, table(expected));
}

#[test]
fn a_lock_that_is_handed_over_is_counted_without_an_attempt() {
    let counts = counts_of(async || {
        let fixture = Fixture::with(|b| b.hand_over(3));
        let first = fixture.guard().await;
        let tasks = [(); 2].map(|()| {
            let locker = fixture.locker.clone();
            tokio::spawn(async move { release(locker.acquire(NAME).await.unwrap()).await })
        });
        yield_now().await;
        release(first).await;
        for task in tasks {
            task.await.unwrap();
        }
    });
    // The grant of the first guard reserved no tokens, because no task waited yet.
    let expected = [
        ("onelock_attempts_total{outcome=acquired}", 2),
        ("onelock_hand_overs_total{}", 1),
        ("onelock_hold_seconds{}", 3),
        ("onelock_wait_seconds{outcome=acquired}", 3),
    ];
    assert_eq!(counts, table(expected));
}

/// Returns the counters of guards dropped by `leave`, whose runtime ends right after it.
fn dropped(leave: impl AsyncFnOnce(Fixture)) -> BTreeMap<String, u64> {
    let mut counts = counts_of(async || leave(Fixture::new()).await);
    counts.retain(|name, _| name.starts_with("onelock_guards_dropped_total"));
    counts
}

fn once(then: &str) -> BTreeMap<String, u64> {
    table([(&format!("onelock_guards_dropped_total{{then={then}}}"), 1)])
}

#[test]
fn a_dropped_guard_is_counted_once_by_its_outcome() {
    let released = dropped(async |fixture| {
        drop(fixture.guard().await);
        fixture.freed_after().await;
        sleep(secs(1)).await;
    });
    assert_eq!(released, once("background"));
    let runtime_ended = dropped(async |fixture| drop(fixture.guard().await));
    assert_eq!(runtime_ended, once("leaked"));
    let refused = dropped(async |fixture| {
        fixture.network.always(Operation::Release, Fault::Refuse(ErrorKind::PermissionDenied));
        drop(fixture.guard().await);
        sleep(secs(60)).await;
    });
    assert_eq!(refused, once("leaked"));
}

#[test]
fn an_abandoned_acquisition_is_not_counted_as_a_guard() {
    for seconds in [0, 60] {
        let abandoned = dropped(async |fixture| {
            fixture.network.always(Operation::Acquire, Fault::LoseReply);
            timeout(secs(1), fixture.locker.try_acquire(NAME)).await.unwrap_err();
            sleep(secs(seconds)).await;
        });
        assert!(abandoned.is_empty(), "{abandoned:?}");
    }
}
