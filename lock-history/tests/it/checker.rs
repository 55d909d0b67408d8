//! The history checker finds every planted violation, and none in a clean history.

use std::time::Duration;

use lock_history::{Checks, Event, EventKind, Mode, Property, Report, check, places};
use proptest::prelude::*;

const BOUND: Duration = Duration::from_millis(1_000);

fn event(millis: u64, worker: u64, kind: EventKind) -> Event {
    Event { at: Duration::from_millis(millis), worker, name: "n".into(), kind }
}

fn granted(token: u64, until: Option<u64>) -> EventKind {
    EventKind::Granted { token: Some(token), until: until.map(Duration::from_millis), mode: Mode::Exclusive }
}

fn checked(events: &[Event]) -> Report {
    check(events, &Checks { obtainable_within: Some(BOUND), ..Checks::default() })
}

fn broken(events: &[Event]) -> Vec<Property> {
    checked(events).violations.iter().map(|violation| violation.property).collect()
}

/// The end of a turn in a clean history.
#[derive(Debug, Clone, Copy)]
enum End {
    Release,
    Loss,
    Death,
    /// The lease expires, and the worker records no further event.
    Silence,
}

/// Generates turns of successive workers: gap, time held, end, and whether the lease expires.
fn turns() -> impl Strategy<Value = Vec<(u64, u64, End, bool)>> {
    let end = prop_oneof![Just(End::Release), Just(End::Loss), Just(End::Death), Just(End::Silence)];
    prop::collection::vec((0..900_u64, 10..500_u64, end, any::<bool>()), 2..20)
}

/// Returns a history without violations, and the indices of its grants.
fn clean(turns: &[(u64, u64, End, bool)]) -> (Vec<Event>, Vec<usize>) {
    let (mut events, mut grants, mut now) = (Vec::new(), Vec::new(), 1_000);
    for (turn, &(gap, held, end, expires)) in turns.iter().enumerate() {
        let worker = turn as u64;
        let until = (expires || matches!(end, End::Silence)).then_some(now + gap + held);
        events.push(event(now, worker, EventKind::Attempt { owner: Some(format!("w{turn}")) }));
        events.push(event(now, worker, EventKind::Refused { owner: Some("another client".into()) }));
        now += gap;
        grants.push(events.len());
        events.push(event(now, worker, granted(100 + worker, until)));
        events.push(event(now + held / 2, worker, EventKind::Valid { until: until.map(Duration::from_millis) }));
        events.push(event(now + held / 2, worker, EventKind::Accepted { token: 100 + worker }));
        now += held;
        match end {
            End::Release => events.push(event(now, worker, EventKind::Released)),
            End::Loss => events.push(event(now, worker, EventKind::Lost { told: false })),
            End::Death => events.push(event(now, worker, EventKind::Died)),
            End::Silence => {}
        }
    }
    (events, grants)
}

fn token_of(event: &mut Event) -> &mut u64 {
    match &mut event.kind {
        EventKind::Granted { token: Some(token), .. } | EventKind::Accepted { token } => token,
        other => panic!("no token in {other:?}"),
    }
}

proptest! {
    #[test]
    fn a_clean_history_passes_in_any_order_of_its_workers(turns in turns(), rotate in any::<prop::sample::Index>()) {
        let (mut events, _) = clean(&turns);
        prop_assert_eq!(broken(&events), vec![]);
        // The files of several processes are concatenated.
        let middle = rotate.index(events.len());
        let worker = events[middle].worker;
        events.sort_by_key(|event| (event.worker < worker, event.worker));
        prop_assert_eq!(broken(&events), vec![]);
    }

    #[test]
    fn a_grant_within_a_validity_interval_is_found(turns in turns(), which in any::<prop::sample::Index>()) {
        let (mut events, grants) = clean(&turns);
        let grant = grants[which.index(grants.len())];
        let intruder = Event { worker: 1_000, ..events[grant].clone() };
        let at = intruder.at + Duration::from_millis(1);
        let token = *token_of(&mut events[grant]);
        let kind = EventKind::Granted { token: Some(token), until: Some(at), mode: Mode::Exclusive };
        events.push(Event { at, kind, ..intruder });
        let report = checked(&events);
        let found = report.violations.iter().find(|violation| violation.property == Property::Exclusion);
        prop_assert!(found.is_some_and(|violation| violation.events.len() <= 3), "{}", report);
    }

    #[test]
    fn a_token_without_an_increase_is_found(turns in turns(), which in any::<prop::sample::Index>(), by in 0..3_u64) {
        let (mut events, grants) = clean(&turns);
        let later = 1 + which.index(grants.len() - 1);
        *token_of(&mut events[grants[later]]) = 100 + later as u64 - 1 - by.min(later as u64 - 1);
        prop_assert_eq!(broken(&events), vec![Property::TokensRise]);
    }

    #[test]
    fn an_accepted_write_with_an_old_token_is_found(turns in turns(), which in any::<prop::sample::Index>()) {
        let (mut events, grants) = clean(&turns);
        let later = 1 + which.index(grants.len() - 1);
        *token_of(&mut events[grants[later] + 2]) = 99;
        prop_assert_eq!(broken(&events), vec![Property::NoOldWrite]);
    }

    #[test]
    fn a_free_lock_without_any_grant_is_found(turns in turns(), beyond in 1..1_000_u64) {
        let (mut events, _) = clean(&turns);
        let end = events.iter().map(|event| event.at.as_millis() as u64).max().unwrap() + 500;
        let last = (turns.len() - 1) as u64;
        events.push(event(end, last, EventKind::Died));
        events.push(event(end, 1_000, EventKind::Attempt { owner: None }));
        events.push(event(end + BOUND.as_millis() as u64, 1_000, EventKind::GaveUp));
        prop_assert_eq!(broken(&events), vec![], "a wait of exactly the bound is allowed");
        events.pop();
        events.push(event(end + BOUND.as_millis() as u64 + beyond, 1_000, EventKind::GaveUp));
        prop_assert_eq!(broken(&events), vec![Property::Obtainable]);
    }
}

#[test]
fn a_validity_interval_ends_after_its_last_renewal() {
    let valid = |until| EventKind::Valid { until: Some(Duration::from_millis(until)) };
    let renewed = |next| {
        vec![
            event(0, 1, granted(1, Some(100))),
            event(60, 1, valid(160)),
            event(120, 1, valid(220)),
            event(next, 2, granted(2, Some(next + 100))),
        ]
    };
    assert_eq!(broken(&renewed(219)), [Property::Exclusion]);
    assert_eq!(broken(&renewed(220)), []);
}

#[test]
fn an_open_interval_ends_with_release_loss_or_death() {
    for end in [EventKind::Released, EventKind::Lost { told: false }, EventKind::Died] {
        let events = [event(0, 1, granted(1, None)), event(50, 1, end.clone()), event(50, 2, granted(2, None))];
        assert_eq!(broken(&events), [], "{end:?}");
        assert_eq!(broken(&[events[0].clone(), events[2].clone()]), [Property::Exclusion]);
    }
}

#[test]
fn a_reported_loss_counts_from_the_last_validity() {
    let taken_at_30 = |told| {
        [
            event(0, 1, granted(1, Some(100))),
            event(30, 2, granted(2, Some(130))),
            event(40, 1, EventKind::Lost { told }),
        ]
    };
    assert_eq!(broken(&taken_at_30(true)), [], "the store may have reported the loss by then");
    assert_eq!(broken(&taken_at_30(false)), [Property::Exclusion], "the guard's own timer had not expired");
}

#[test]
fn an_early_loss_in_an_undisturbed_store_is_found() {
    let found = |until: Option<u64>, told| {
        let events = [event(0, 1, granted(1, until)), event(40, 1, EventKind::Lost { told })];
        let violations = check(&events, &Checks { undisturbed: true, ..Checks::default() }).violations;
        violations.iter().map(|violation| violation.property).collect::<Vec<_>>()
    };
    assert_eq!(found(Some(41), true), [Property::KeptToTheEnd]);
    assert_eq!(found(None, true), [Property::KeptToTheEnd], "the lease had no end");
    assert_eq!(found(Some(40), true), [], "the lease had already expired");
    assert_eq!(found(Some(41), false), [], "the guard ended by its own limit");
    assert_eq!(broken(&[event(0, 1, granted(1, None)), event(40, 1, EventKind::Lost { told: true })]), []);
}

#[test]
fn an_attempt_refused_by_itself_is_found() {
    let refused = |owner: &str| EventKind::Refused { owner: Some(owner.into()) };
    let attempt = |owner: &str| EventKind::Attempt { owner: Some(owner.into()) };
    assert_eq!(broken(&[event(0, 1, attempt("a#1")), event(1, 1, refused("a#1"))]), [Property::OwnLockIsKnown]);
    assert_eq!(broken(&[event(0, 1, attempt("a#2")), event(1, 1, refused("a#1"))]), []);
}

#[test]
fn stopped_and_dead_workers_are_not_waiting() {
    let attempt = EventKind::Attempt { owner: None };
    for stop in [EventKind::Stopped, EventKind::Died, EventKind::GaveUp] {
        let events = [
            event(0, 1, attempt.clone()),
            event(10, 1, stop.clone()),
            event(5_000, 2, EventKind::Lost { told: false }),
        ];
        assert_eq!(broken(&events), [], "{stop:?}");
    }
    let resumed = [
        event(0, 1, attempt),
        event(10, 1, EventKind::Stopped),
        event(4_500, 1, EventKind::Resumed),
        event(5_000, 2, EventKind::Lost { told: false }),
    ];
    assert_eq!(broken(&resumed), []);
}

#[test]
fn locks_with_different_names_are_checked_separately() {
    let mut events = vec![event(0, 1, granted(5, Some(100))), event(10, 2, granted(5, Some(110)))];
    events[1].name = "m".into();
    assert_eq!(checked(&events).violations, []);
    assert_eq!(checked(&events).names, 2);
}

/// Grants of these workers, in these modes, from a time until another; each token is the start.
fn held(parts: &[(u64, Mode, u64, u64)]) -> Vec<Property> {
    let events: Vec<_> = parts
        .iter()
        .map(|&(worker, mode, from, to)| {
            let until = Some(Duration::from_millis(to));
            event(from, worker, EventKind::Granted { token: Some(from), until, mode })
        })
        .collect();
    broken(&events)
}

#[test]
fn readers_overlap_and_exclude_other_modes() {
    let (shared, permit) = (Mode::Shared, Mode::Permit { of: 2 });
    assert_eq!(held(&[(1, shared, 10, 100), (2, shared, 20, 90), (3, shared, 30, 80)]), []);
    assert_eq!(held(&[(1, shared, 10, 100), (2, shared, 20, 50), (3, Mode::Exclusive, 100, 200)]), []);
    for other in [Mode::Exclusive, permit, Mode::Permit { of: 3 }] {
        let later = held(&[(1, shared, 10, 100), (2, shared, 20, 50), (3, other, 99, 200)]);
        assert_eq!(later, [Property::Exclusion], "{other:?} while one of two readers is left");
        assert_eq!(held(&[(1, other, 10, 100), (2, shared, 99, 200)]), [Property::Exclusion], "{other:?} first");
    }
    assert_eq!(held(&[(1, permit, 10, 100), (2, Mode::Permit { of: 3 }, 20, 90)]), [Property::Exclusion]);
}

#[test]
fn one_permit_too_many_is_found() {
    let permit = Mode::Permit { of: 2 };
    assert_eq!(held(&[(1, permit, 10, 100), (2, permit, 20, 50), (3, permit, 50, 200), (4, permit, 100, 200)]), []);
    assert_eq!(held(&[(1, permit, 10, 100), (2, permit, 20, 51), (3, permit, 50, 200)]), [Property::Exclusion]);
}

#[test]
fn tokens_of_readers_rise_only_from_finished_grants() {
    let reader = |at, worker, token| {
        event(at, worker, EventKind::Granted { token: Some(token), until: None, mode: Mode::Shared })
    };
    let attempt = |at, worker| event(at, worker, EventKind::Attempt { owner: None });
    let side_by_side = [attempt(1, 1), attempt(1, 2), reader(10, 1, 8), reader(11, 2, 7)];
    assert_eq!(broken(&side_by_side), [], "the attempts overlapped");
    let one_after_the_other = [attempt(1, 1), reader(10, 1, 8), attempt(11, 2), reader(12, 2, 7)];
    assert_eq!(broken(&one_after_the_other), [Property::TokensRise]);
    let equal = [attempt(1, 1), attempt(1, 2), reader(10, 1, 8), reader(11, 2, 8)];
    assert_eq!(broken(&equal), [Property::TokensRise], "two holders with one token");
}

fn queued(place: u64, mode: Mode, until: u64) -> EventKind {
    EventKind::Queued { place, mode, until: Duration::from_millis(until) }
}

/// Returns whether a grant to worker 2 at 500 ms, whose attempt began at 200 ms, passes a place of
/// worker 1 with these events.
fn passes(mode: Mode, of_worker_1: &[(u64, EventKind)]) -> bool {
    let mut events: Vec<_> = of_worker_1.iter().map(|(at, kind)| event(*at, 1, kind.clone())).collect();
    events.push(event(200, 2, EventKind::Attempt { owner: None }));
    events.push(event(500, 2, EventKind::Granted { token: None, until: None, mode }));
    let broken = broken(&events);
    assert!(broken.is_empty() || broken == [Property::InOrder], "{broken:?}");
    !broken.is_empty()
}

#[test]
fn a_grant_past_an_earlier_place_is_found() {
    use Mode::{Exclusive, Permit, Shared};
    let place = |mode| (100, queued(7, mode, 900));
    for (place_of, grant, excluded) in [
        (Exclusive, Exclusive, true),
        (Exclusive, Shared, true),
        (Shared, Exclusive, true),
        (Permit { of: 2 }, Shared, true),
        (Shared, Shared, false),
        (Permit { of: 2 }, Permit { of: 2 }, false),
    ] {
        assert_eq!(passes(grant, &[place(place_of)]), excluded, "{grant:?} past {place_of:?}");
    }
    let past = |more: &[(u64, EventKind)]| passes(Exclusive, &[&[place(Exclusive)], more].concat());
    assert!(past(&[(300, queued(7, Exclusive, 1_000))]), "the place is kept");
    assert!(past(&[(400, EventKind::Stopped)]), "the place of a stopped worker is kept");
    assert!(!past(&[(300, EventKind::GaveUp)]), "the worker left");
    assert!(!past(&[(300, EventKind::Died)]), "the place of a killed worker may be gone");
    assert!(!past(&[(300, queued(7, Exclusive, 300))]), "the place ended");
    assert!(!passes(Exclusive, &[(100, queued(7, Exclusive, 499))]), "the place was not kept");
    assert!(!passes(Exclusive, &[(300, queued(7, Exclusive, 900))]), "the attempt began before the place");
    let late = [(100, queued(7, Exclusive, 150)), (300, queued(7, Exclusive, 900))];
    assert!(!passes(Exclusive, &late), "a place that ended begins anew");
    assert!(past(&[(300, queued(8, Exclusive, 300))]), "another place ended");
}

#[test]
fn an_attempt_without_an_owner_may_pass_the_queue() {
    let attempt = |owner: Option<&str>| {
        let attempt = event(200, 2, EventKind::Attempt { owner: owner.map(Into::into) });
        let granted = event(500, 2, EventKind::Granted { token: None, until: None, mode: Mode::Exclusive });
        let events = [event(100, 1, queued(7, Mode::Exclusive, 900)), attempt, granted];
        let found = |hands_over| check(&events, &Checks { hands_over, ..Checks::default() }).violations.len();
        (found(false), found(true))
    };
    assert_eq!(attempt(None), (1, 0));
    assert_eq!(attempt(Some("its own")), (1, 1));
}

#[test]
fn a_place_lasts_as_long_as_the_answers_show() {
    let ms = Duration::from_millis;
    let found = |began, replies: &[u64]| {
        let replies: Vec<_> = replies.iter().copied().map(ms).collect();
        let found = places(ms(began), &replies, ms(100));
        found.iter().map(|(at, until)| (at.as_millis(), until.as_millis())).collect::<Vec<_>>()
    };
    assert_eq!(found(0, &[]), []);
    assert_eq!(found(0, &[10]), [(10, 10)]);
    assert_eq!(found(0, &[10, 40, 80, 120]), [(10, 120)]);
    assert_eq!(found(0, &[10, 60, 70]), [(10, 10), (60, 70)], "a grant in between may have come too late");
    assert_eq!(found(0, &[80, 100, 110]), [(80, 80), (100, 110)], "the first attempt may have arrived at once");
    assert_eq!(found(0, &[30, 70, 110, 140]), [(30, 140)]);
}

#[test]
fn acquisitions_are_counted_by_the_way() {
    let granted =
        |at, worker, token, mode| event(at, worker, EventKind::Granted { token: Some(token), until: None, mode });
    let attempt = |at, worker| event(at, worker, EventKind::Attempt { owner: None });
    let released = |at, worker| event(at, worker, EventKind::Released);
    let report = checked(&[
        attempt(1, 1),
        granted(2, 1, 100, Mode::Exclusive),
        attempt(2, 2),
        event(3, 3, queued(1, Mode::Exclusive, 3)),
        released(4, 1),
        granted(5, 2, 101, Mode::Exclusive),
        released(6, 2),
        granted(7, 3, 200, Mode::Exclusive),
        released(8, 3),
        granted(9, 1, 300, Mode::Shared),
        granted(9, 2, 301, Mode::Shared),
        released(10, 1),
        released(10, 2),
        granted(11, 1, 400, Mode::Permit { of: 2 }),
        // This attempt has no place.
        event(12, 3, queued(2, Mode::Exclusive, 12)),
        event(13, 3, EventKind::GaveUp),
        attempt(14, 3),
        released(15, 1),
        granted(16, 3, 500, Mode::Exclusive),
    ]);
    assert_eq!(report.violations, []);
    assert_eq!((report.acquisitions, report.shared, report.permits), (7, 2, 1));
    assert_eq!((report.queued, report.handed_over), (1, 1));
    let line = report.to_string();
    assert!(line.contains("7 acquisitions") && line.contains("2 shared, 1 permits, 1 from the queue, 1 handed over"));
}
