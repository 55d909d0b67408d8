//! Cases of locks with several holders: shared locks and permits.

mod cancelled;
mod crashes;
mod late;
mod waiting;

use std::{num::NonZeroU16, time::Duration};

use futures_util::future::join_all;

use crate::{
    backend::{AcquireOutcome, AcquireRequest, Backend, Break, Capability, Lease, Release, Renewal},
    testing::{
        cases::chaos,
        harness::{A_DAY, Bench, acquire, admin, assert_not_held, granted, refused, release},
    },
    types::{ErrorKind, FencingToken, LockName, Mode},
};

pub(super) use self::cancelled::{
    a_cancelled_acquire_of_any_mode_leaves_no_part, a_cancelled_release_of_any_mode_frees_its_part,
    a_cancelled_renewal_of_any_mode_keeps_its_part, a_cancelled_wait_of_a_writer_lets_readers_in,
    a_cancelled_wait_of_any_mode_leaves_no_part,
};
pub(super) use self::crashes::a_crash_frees_only_the_part_of_its_holder;
pub(super) use self::late::{a_late_acquire_joins_no_other_holder, late_requests_leave_other_holders_alone};
pub(super) use self::waiting::{
    a_crashed_waiting_writer_lets_readers_in, a_waiter_of_another_mode_is_not_overtaken,
    a_writer_that_does_not_wait_keeps_no_reader_out, a_writer_that_gives_up_lets_readers_in,
    later_readers_do_not_overtake_a_waiting_writer,
};

/// A minimum hold that lasts for longer than a case takes on any machine.
const LONG_HOLD: Duration = Duration::from_secs(600);
/// More tokens than there are microseconds between two grants, because a store may count these.
const RESERVED: u32 = 100_000_000;
fn permit(of: u16) -> Mode {
    Mode::Permit { of: NonZeroU16::new(of).expect("not zero") }
}

fn reader(bench: &Bench<'_>, name: &LockName) -> AcquireRequest {
    bench.request(name).with_mode(Mode::Shared)
}

/// A request for an exclusive lock that is repeated while it is refused.
fn writer(bench: &Bench<'_>, name: &LockName) -> AcquireRequest {
    bench.request(name).with_waits(true)
}

/// The modes that the store has and that let several clients hold a lock.
pub(super) fn joinable(client: &dyn Backend) -> Vec<Mode> {
    [Mode::Shared, permit(3)].into_iter().filter(|mode| client.capabilities().has_mode(*mode)).collect()
}

async fn renewed(client: &dyn Backend, lease: &Lease) {
    assert_eq!(client.renew(lease).await.expect("the store answers"), Renewal::Renewed, "{lease:?}");
}

// verifies: P12
pub(super) async fn an_undeclared_mode_is_refused_and_leaves_no_lock(bench: &Bench<'_>) {
    let client = bench.client().await;
    for mode in [Mode::Shared, permit(2)] {
        if client.capabilities().has_mode(mode) {
            continue;
        }
        let name = bench.name("mode");
        let answer = client.acquire(&bench.request(&name).with_mode(mode)).await;
        let error = answer.expect_err("this mode is not declared");
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false), "{error}");
        let _ = granted(&*client, &bench.request(&name)).await;
    }
}

// verifies: P12
pub(super) async fn readers_hold_a_shared_lock_together(bench: &Bench<'_>) {
    let name = bench.name("readers");
    let mut readers = Vec::new();
    for _ in 0..4 {
        let client = bench.client().await;
        let (lease, grant) = granted(&*client, &reader(bench, &name)).await;
        assert!(!grant.already_ours && grant.crashed.is_none());
        readers.push((client, lease));
    }
    for (client, lease) in &readers {
        renewed(&**client, lease).await;
    }
    for (client, lease) in &readers {
        release(&**client, lease).await;
    }
    let _ = granted(&*bench.client().await, &bench.request(&name)).await;
}

// verifies: P1, P12
pub(super) async fn a_writer_and_readers_exclude_each_other(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("writer");
    let (writing, _) = granted(&*a, &bench.request(&name)).await;
    refused(&*b, &reader(bench, &name)).await;
    refused(&*a, &reader(bench, &name)).await;
    release(&*a, &writing).await;
    let (first, _) = granted(&*a, &reader(bench, &name)).await;
    let (second, _) = granted(&*b, &reader(bench, &name)).await;
    release(&*a, &first).await;
    refused(&*a, &bench.request(&name)).await;
    release(&*b, &second).await;
    let (writing, _) = granted(&*a, &bench.request(&name)).await;
    release(&*a, &writing).await;
}

// verifies: P1, P12, contention
pub(super) async fn of_many_contenders_as_many_hold_as_permits(bench: &Bench<'_>) {
    let name = bench.name("permits");
    let request = || bench.request(&name).with_mode(permit(3));
    let contenders = join_all((0..8).map(|_| async {
        let (client, request) = (bench.client().await, request());
        match acquire(&*client, &request).await {
            AcquireOutcome::Granted(grant) => Some((client, request.lease(grant.token))),
            AcquireOutcome::Contended(_) => None,
        }
    }))
    .await;
    let mut held: Vec<_> = contenders.into_iter().flatten().collect();
    assert!(held.len() == 3 || (held.len() < 3 && bench.subject.votes()), "{} of 8 contenders hold", held.len());
    while held.len() < 3 {
        let client = bench.client().await;
        let (lease, _) = granted(&*client, &request()).await;
        held.push((client, lease));
    }
    let other = bench.client().await;
    refused(&*other, &request()).await;
    for (client, lease) in held {
        renewed(&*client, &lease).await;
        release(&*client, &lease).await;
        let (next, _) = granted(&*other, &request()).await;
        refused(&*other, &request()).await;
        drop(next);
    }
}

// verifies: P12
pub(super) async fn disagreeing_numbers_of_permits_are_an_error(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("disagree");
    let (held, _) = granted(&*a, &bench.request(&name).with_mode(permit(3))).await;
    let other = bench.request(&name).with_mode(permit(4));
    let waits = other.clone().with_waits(true);
    let fair = b.capabilities().fair.then(|| waits.clone().with_fair(true));
    for request in [other.clone(), waits].into_iter().chain(fair) {
        let error = b.acquire(&request).await.expect_err("the numbers differ");
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Config, false), "{error}");
        let message = error.to_string();
        assert!(message.contains('3') && message.contains('4'), "both numbers are named: {message}");
    }
    // The error leaves neither a mark nor a place.
    let (second, _) = granted(&*b, &bench.request(&name).with_mode(permit(3))).await;
    release(&*b, &second).await;
    release(&*a, &held).await;
    // A free name may be used with another number.
    let _ = granted(&*b, &other).await;
}

// verifies: P12
pub(super) async fn different_modes_of_one_name_exclude_each_other(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("mixed");
    let modes = [Mode::Exclusive, Mode::Shared, permit(3)];
    for held in modes {
        let (lease, _) = granted(&*a, &bench.request(&name).with_mode(held)).await;
        for wanted in modes.into_iter().filter(|wanted| *wanted != held) {
            let holder = refused(&*b, &bench.request(&name).with_mode(wanted)).await;
            assert_eq!(holder.mode, held, "the refusal names the mode of the holder");
        }
        // None of them waits, so they keep no holder of the same mode out.
        if held.may_be_joined() {
            let (joined, _) = granted(&*b, &bench.request(&name).with_mode(held)).await;
            release(&*b, &joined).await;
        }
        release(&*a, &lease).await;
    }
}

// verifies: P7, P12
pub(super) async fn tokens_increase_over_holders_of_all_modes(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("tokens");
    let mut last = None;
    let joinable = joinable(&*client);
    for mode in joinable.iter().chain([&Mode::Exclusive]).cycle().take(6) {
        let mut leases = Vec::new();
        // Reserved tokens are ahead of the clock too, on every store.
        let reserves = !mode.may_be_joined() && client.capabilities().has(Capability::HandOver);
        let reserved = if reserves { RESERVED } else { 0 };
        for _ in 0..if mode.may_be_joined() { 3 } else { 1 } {
            let request = bench.request(&name).with_mode(*mode).with_reserved_tokens(reserved);
            let (lease, _) = granted(&*client, &request).await;
            let first = lease.token.map(|token| token.get() - u64::from(reserved));
            assert!(first > last, "{first:?} after {last:?} in {mode}");
            last = lease.token.map(FencingToken::get);
            // Not every store can be told.
            let raised = last.and_then(|token| FencingToken::new(token + A_DAY)).expect("a day more");
            if reserved == 0 && client.advance_token(&lease, raised).await.is_ok_and(|held| held) {
                last = Some(raised.get());
            }
            leases.push(lease);
        }
        for lease in leases {
            release(&*client, &lease).await;
        }
    }
}

/// A batch has several parts of one name.
// verifies: P12
pub(super) async fn renewing_many_parts_reports_each_one_separately(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let client = bench.client().await;
        let names = [bench.name("one"), bench.name("other")];
        let mut leases = Vec::new();
        for name in names.iter().cycle().take(6) {
            leases.push(granted(&*client, &bench.request(name).with_mode(mode)).await.0);
        }
        for ended in [1, 4] {
            release(&*client, &leases[ended]).await;
        }
        let mut answers = Vec::new();
        for batch in leases.chunks(client.timings().renew_batch.max(1)) {
            answers.extend(client.renew_many(batch).await);
        }
        let answers = answers.into_iter().map(|answer| answer.expect("the store answers"));
        let renewed: Vec<_> = answers.map(|answer| matches!(answer, Renewal::Renewed)).collect();
        assert_eq!(renewed, [true, false, true, true, false, true], "{mode}");
        for held in [0, 2, 3, 5] {
            release(&*client, &leases[held]).await;
        }
    }
}

// verifies: P7, P12
pub(super) async fn the_next_token_exceeds_an_advanced_part(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("raised");
        let request = || bench.request(&name).with_mode(mode);
        let (staying, _) = granted(&*b, &request()).await;
        let raising = request();
        let (lease, _) = granted(&*a, &raising).await;
        let token = lease.token.expect("fencing is declared");
        let raised = FencingToken::new(token.get() + A_DAY).expect("a day more");
        match a.advance_token(&lease, raised).await {
            Ok(held) => assert!(held, "the lease holds a part"),
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        }
        assert!(a.advance_token(&lease, token).await.expect("the store answers"), "a smaller token changes nothing");
        let (again, grant) = granted(&*a, &raising).await;
        assert_eq!((again.token, grant.already_ours), (Some(raised), true));
        renewed(&*a, &lease).await;
        release(&*a, &lease).await;
        let raised_late = a.advance_token(&lease, raised).await.expect("the store answers");
        assert!(!raised_late, "a released part cannot advance the token");
        renewed(&*b, &staying).await;
        let (next, _) = granted(&*b, &request()).await;
        assert!(next.token > Some(raised), "{:?} after {raised:?}", next.token);
        release(&*b, &next).await;
        release(&*b, &staying).await;
    }
}

// verifies: P4, P12
pub(super) async fn a_refusal_counts_and_names_several_holders(bench: &Bench<'_>) {
    let client = bench.client().await;
    for mode in joinable(&*client) {
        let name = bench.name("several");
        for (owner, ttl) in [("one", 60), ("two", 40), ("three", 50)] {
            let request = bench.request(&name).with_mode(mode).with_ttl(Duration::from_secs(ttl));
            let _ = granted(&*client, &AcquireRequest { owner: owner.into(), ..request }).await;
        }
        let refusal = refused(&*client, &bench.request(&name)).await;
        let inspected = match client.admin().filter(|_| client.capabilities().inspect) {
            Some(admin) => admin.inspect(&name).await.expect("the store answers"),
            None => None,
        };
        for holder in [Some(refusal), inspected].into_iter().flatten() {
            assert_eq!((holder.count(), holder.mode), (3, mode), "{holder}");
            if client.capabilities().ttl {
                assert_eq!(holder.owner.as_deref(), Some("two"), "the first to expire comes first");
            }
            let mut owners: Vec<_> = holder.others.iter().map(|other| other.owner.clone()).collect();
            owners.push(holder.owner.clone());
            owners.sort();
            assert_eq!(owners, ["one", "three", "two"].map(|owner| Some(owner.to_owned())));
        }
    }
}

// verifies: P5, lost-reply, P12
pub(super) async fn a_retry_recognizes_its_own_part(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("again");
        let _other = granted(&*b, &bench.request(&name).with_mode(mode)).await;
        let request = bench.request(&name).with_mode(mode);
        let (lease, _) = granted(&*a, &request).await;
        let (again, grant) = granted(&*a, &request).await;
        assert!(grant.already_ours && again.token == lease.token);
        // A repetition takes no second part.
        release(&*a, &lease).await;
        assert!(matches!(a.renew(&lease).await, Ok(Renewal::Lost(_))));
    }
}

// verifies: hold-limits, P12
pub(super) async fn min_hold_keeps_the_part_of_its_holder(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let client = bench.client().await;
        let name = bench.name("kept");
        let (lease, _) = granted(&*client, &bench.request(&name).with_mode(mode)).await;
        let hold_for = bench.subject.ttl() / 2;
        assert_eq!(client.release(&lease, hold_for).await.expect("the store answers"), Release::Released);
        // Another holder may join, and a holder of another mode has to wait.
        let (joined, _) = granted(&*client, &bench.request(&name).with_mode(mode)).await;
        refused(&*client, &bench.request(&name)).await;
        release(&*client, &joined).await;
        let _ = bench.granted_in_the_end(&*client, &bench.request(&name)).await;
        let (name, hold_for) = (bench.name("kept-writer"), LONG_HOLD);
        let (lease, _) = granted(&*client, &bench.request(&name)).await;
        assert_eq!(client.release(&lease, hold_for).await.expect("the store answers"), Release::Released);
        refused(&*client, &bench.request(&name).with_mode(mode)).await;
        if mode == permit(3) {
            let name = bench.name("kept-permit");
            let request = || bench.request(&name).with_mode(mode);
            let (lease, _) = granted(&*client, &request()).await;
            assert_eq!(client.release(&lease, hold_for).await.expect("the store answers"), Release::Released);
            let _two = [granted(&*client, &request()).await, granted(&*client, &request()).await];
            refused(&*client, &request()).await;
        }
    }
}

// verifies: P3, P12
pub(super) async fn a_break_ends_the_part_of_one_holder(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("broken");
        let named = |owner: &str| AcquireRequest { owner: owner.into(), ..bench.request(&name).with_mode(mode) };
        let (first, _) = granted(&*a, &named("first")).await;
        let (second, _) = granted(&*b, &named("second")).await;
        let holder = admin(&a).inspect(&name).await.expect("the store answers").expect("two clients hold the lock");
        let mut holders = holder.others.clone();
        holders.push(holder);
        let seen = holders.into_iter().find(|holder| holder.owner.as_deref() == Some("first")).expect("it holds");
        let version = seen.version.expect("the lock can be broken");
        assert_eq!(admin(&b).break_lock(&name, &version, "an operator").await.ok(), Some(Break::Broken));
        assert!(matches!(a.renew(&first).await, Ok(Renewal::Lost(_))));
        renewed(&*b, &second).await;
        assert_not_held(a.release(&first, Duration::ZERO).await);
        refused(&*a, &bench.request(&name)).await;
        release(&*b, &second).await;
        let (_, grant) = granted(&*a, &bench.request(&name)).await;
        assert_eq!(grant.crashed, None, "a break is no crash");
    }
}

// verifies: P1, P7, P12
pub(super) async fn random_faults_in_all_modes_keep_the_guarantees(bench: &Bench<'_>) {
    let mut modes = joinable(&*bench.client().await);
    modes.push(Mode::Exclusive);
    chaos::run_under_faults(bench, &chaos::Load::of(&modes)).await;
}
