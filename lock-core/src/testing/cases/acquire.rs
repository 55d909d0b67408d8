//! Cases of [`Backend::acquire`](crate::backend::Backend::acquire).

use std::{collections::HashSet, pin::pin, task::Poll, time::Duration};

use futures_util::{future::join_all, poll};
use tokio::time::Instant;

use crate::{
    backend::{AcquireOutcome, AcquireRequest, Break, Renewal},
    locker::Locker,
    testing::harness::{A_DAY, Bench, acquire, admin, granted, granted_soon, refused, release},
    types::{ErrorKind, FencingToken, LeaseId, LockName},
};

// verifies: P4
pub(super) async fn acquiring_a_free_lock_grants_it(bench: &Bench<'_>) {
    let client = bench.client().await;
    let (_, grant) = granted(&*client, &bench.request(&bench.name("free"))).await;
    assert_eq!(
        grant.token.is_some(),
        client.capabilities().fencing,
        "a token comes with the grant where fencing is declared"
    );
    assert!(!grant.already_ours);
    assert_eq!(grant.crashed, None);
}

// verifies: P4, asked-twice
pub(super) async fn a_held_lock_refuses_other_lease_ids(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("held");
    let _held = granted(&*client, &bench.request(&name)).await;
    for _ in 0..3 {
        refused(&*client, &bench.request(&name)).await;
    }
}

// verifies: P1, asked-twice
pub(super) async fn two_clients_never_hold_the_same_lock(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("two");
    let (held, _) = granted(&*a, &bench.request(&name)).await;
    refused(&*b, &bench.request(&name)).await;
    release(&*a, &held).await;
    let _held = granted(&*b, &bench.request(&name)).await;
    refused(&*a, &bench.request(&name)).await;
}

// verifies: P1, contention
pub(super) async fn exactly_one_of_many_contenders_acquires(bench: &Bench<'_>) {
    let mut clients = Vec::new();
    for contender in 0..16 {
        let client = bench.client().await;
        // Connects before the races: 16 connections at once are slow on a busy machine, and an
        // attempt would end in a timeout.
        let (lease, _) = granted(&*client, &bench.request(&bench.name(&format!("connects{contender}")))).await;
        release(&*client, &lease).await;
        clients.push(client);
    }
    for round in 0..10 {
        let name = bench.name(&format!("race{round}"));
        let attempts =
            join_all(clients.iter().map(async |client| acquire(&**client, &bench.request(&name)).await)).await;
        let winners = attempts.iter().filter(|attempt| matches!(attempt, AcquireOutcome::Granted(_))).count();
        if winners == 0 && bench.subject.votes() {
            // The refused clients rolled back their votes, so a single retry gets all votes.
            let _ = granted(&*clients[0], &bench.request(&name)).await;
            continue;
        }
        assert_eq!(winners, 1, "of 16 contenders for {name}");
    }
}

// verifies: P4
pub(super) async fn a_refusal_reports_the_current_holder(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("who");
    let data = vec![0, 255, b'\n', b'"', 7];
    let request =
        AcquireRequest { owner: "Zoë's \"job\"\n#1".into(), data: Some(data.clone()), ..bench.request(&name) };
    let (lease, _) = granted(&*a, &request).await;
    let holder = refused(&*b, &bench.request(&name)).await;
    assert_eq!(holder.owner.as_deref(), Some(&*request.owner));
    assert_eq!(holder.data, Some(data));
    assert_eq!(holder.token, lease.token);
    assert!(holder.since.is_some());
    assert_eq!(holder.foreign, None);
    assert_eq!(holder.expires_in.is_some(), b.capabilities().ttl);
}

// verifies: P5
pub(super) async fn acquiring_again_with_the_same_id_succeeds(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("again");
    let request = bench.request(&name);
    let (lease, _) = granted(&*client, &request).await;
    let (again, grant) = granted(&*client, &request).await;
    assert!(grant.already_ours);
    assert_eq!(again.token, lease.token, "the same acquisition has the same token");
    refused(&*client, &bench.request(&name)).await;
    release(&*client, &lease).await;
    let _free = granted(&*client, &bench.request(&name)).await;
    if client.capabilities().ttl {
        a_whole_ttl_from_then_on(bench).await;
    }
}

/// Checks that each repeated acquire extends the lease by a whole ttl.
async fn a_whole_ttl_from_then_on(bench: &Bench<'_>) {
    let (holder, other) = (bench.client().await, bench.client().await);
    let name = bench.name("prolonged");
    let request = bench.short_request(&name);
    let mut asked = Instant::now();
    let _ = granted(&*holder, &request).await;
    for _ in 0..4 {
        bench.subject.pass(bench.subject.ttl() / 2).await;
        let sent = Instant::now();
        let (_, grant) = granted(&*holder, &request).await;
        // The lease may have expired only if the machine stalled for half a ttl.
        assert!(grant.already_ours || asked.elapsed() >= bench.subject.ttl(), "the lease expired too early");
        asked = sent;
        let attempt = acquire(&*other, &bench.short_request(&name)).await;
        if asked.elapsed() < bench.subject.ttl() {
            assert!(matches!(attempt, AcquireOutcome::Contended(_)), "acquired again {:?} ago", asked.elapsed());
        } else if matches!(attempt, AcquireOutcome::Granted(_)) {
            return;
        }
    }
}

// verifies: P7
pub(super) async fn fencing_tokens_increase_across_every_release(bench: &Bench<'_>) {
    let clients = [bench.client().await, bench.client().await];
    let name = bench.name("tokens");
    let mut last = None;
    for round in 0..20 {
        let client = &*clients[round % 2];
        let (lease, _) = granted(client, &bench.request(&name)).await;
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        release(client, &lease).await;
    }
}

// verifies: P7
pub(super) async fn fencing_tokens_increase_across_lease_expiry(bench: &Bench<'_>) {
    let name = bench.name("tokens");
    let mut last = None;
    for _ in 0..3 {
        let client = bench.client().await;
        let (lease, _) = granted(&*client, &bench.short_request(&name)).await;
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        bench.subject.crash(client).await;
    }
}

// verifies: P7
pub(super) async fn fencing_tokens_increase_across_a_forced_break(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("tokens");
    let mut last = None;
    for _ in 0..3 {
        let (lease, _) = granted(&*client, &bench.request(&name)).await;
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        let version =
            refused(&*client, &bench.request(&name)).await.version.expect("a lock that can be broken has a version");
        assert_eq!(
            admin(&client).break_lock(&name, &version, "suite").await.expect("the store answers"),
            Break::Broken
        );
    }
}

pub(super) async fn the_next_token_exceeds_an_advanced_token(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("raised");
    let request = bench.request(&name);
    let (lease, _) = granted(&*a, &request).await;
    let token = lease.token.expect("fencing is declared");
    let raised = FencingToken::new(token.get() + A_DAY).expect("a day more");
    match a.advance_token(&lease, raised).await {
        Ok(held) => assert!(held, "the lease holds the lock"),
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    assert!(a.advance_token(&lease, token).await.expect("the store answers"), "a smaller token changes nothing");
    let (again, _) = granted(&*a, &request).await;
    assert_eq!(again.token, Some(raised));
    assert_eq!(refused(&*b, &bench.request(&name)).await.token, Some(raised));
    assert_eq!(a.renew(&lease).await.expect("the store answers"), Renewal::Renewed);
    release(&*a, &lease).await;
    assert!(
        !a.advance_token(&lease, raised).await.expect("the store answers"),
        "a released lease cannot advance the token"
    );
    let (next, grant) = granted(&*b, &bench.request(&name)).await;
    assert!(next.token > Some(raised), "{:?} after {raised:?}", next.token);
    assert_eq!(grant.crashed, None);
    release(&*b, &next).await;
}

// verifies: P9
pub(super) async fn an_expired_lock_is_granted_in_one_attempt(bench: &Bench<'_>) {
    let holder = bench.client().await;
    let name = bench.name("expired");
    let _dead = granted(&*holder, &bench.short_request(&name)).await;
    bench.subject.crash(holder).await;
    // A cold process: this client has never seen the lock.
    let cold = bench.client().await;
    let _taken = granted(&*cold, &bench.request(&name)).await;
}

// verifies: P2, P8, other-ttl
pub(super) async fn the_holders_ttl_decides_when_a_lock_expires(bench: &Bench<'_>) {
    let (holder, other) = (bench.client().await, bench.client().await);
    let name = bench.name("ttl");
    let started = Instant::now();
    let _held = granted(&*holder, &bench.short_request(&name)).await;
    let impatient = bench.request(&name).with_ttl(bench.ttl_of(0.05));
    loop {
        let attempt = other.acquire(&impatient).await;
        let after = started.elapsed();
        match attempt {
            Ok(AcquireOutcome::Granted(_)) => {
                assert!(after >= bench.subject.ttl(), "granted after {after:?}, within the holder's ttl");
                return;
            }
            Ok(AcquireOutcome::Contended(_)) => {}
            // Such a short ttl leaves the store little time to answer.
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(after < 100 * bench.subject.ttl(), "not granted after {after:?}");
        bench.subject.pass(bench.subject.ttl() / 20).await;
    }
}

// verifies: P9
pub(super) async fn the_next_grant_reports_a_crashed_holder(bench: &Bench<'_>) {
    let holder = bench.client().await;
    let name = bench.name("crashed");
    let request = AcquireRequest {
        owner: "crashed owner".into(),
        data: Some(b"half done".to_vec()),
        ..bench.short_request(&name)
    };
    let (lease, _) = granted(&*holder, &request).await;
    bench.subject.crash(holder).await;
    let (_, grant) = bench.granted_in_the_end(&*bench.client().await, &bench.request(&name)).await;
    let crashed = grant.crashed.expect("the previous holder did not release");
    assert_eq!(crashed.owner.as_deref(), Some("crashed owner"));
    assert_eq!(crashed.data.as_deref(), Some(&b"half done"[..]));
    assert_eq!(crashed.token, lease.token);
}

// verifies: P9
pub(super) async fn a_released_lock_reports_no_crashed_holder(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("released");
    for hold_for in [Duration::ZERO, bench.subject.ttl() / 10] {
        let (lease, _) = granted(&*client, &bench.request(&name)).await;
        let _ = client.release(&lease, hold_for).await.expect("the store answers");
        let (lease, grant) = bench.granted_in_the_end(&*client, &bench.request(&name)).await;
        assert_eq!(grant.crashed, None);
        release(&*client, &lease).await;
    }
}

/// Names that some stores fold, truncate, forbid or interpret.
fn odd_names(unique: &str) -> Vec<LockName> {
    let long = "x".repeat(LockName::MAX_BYTES - unique.len());
    let almost = format!("{}y", &long[1..]);
    let odd = [
        "",
        ".",
        "..",
        "/",
        "//",
        "../x",
        "a/b",
        "a\\b",
        "a",
        "A",
        "a ",
        " a",
        "a.lock",
        "a.lock.lock",
        "a%2fb",
        "a%2Fb",
        "%",
        "%%",
        "\0",
        "a\0b",
        "\n",
        "\u{1b}[2J",
        "{",
        "}",
        "{}",
        "{a}",
        "a{b",
        "a}b",
        "{a}{b}",
        "a:b",
        "a*b",
        "a?b",
        "~",
        "-n",
        "é",
        "e\u{301}",
        "É",
        "ß",
        "SS",
        "İ",
        "日本語",
        "🔒",
        "\u{202e}",
        "CON",
        "con",
        "nul.txt",
        &long,
        &almost,
    ];
    odd.iter().map(|odd| LockName::new(format!("{unique}{odd}")).expect("within the limit")).collect()
}

// verifies: P1, odd-names
pub(super) async fn unusual_names_are_kept_as_distinct_locks(bench: &Bench<'_>) {
    let client = bench.client().await;
    let unique = LeaseId::random().to_string();
    let names = odd_names(&unique);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    let mut leases = Vec::new();
    for name in &names {
        leases.push(granted(&*client, &bench.request(name)).await.0);
    }
    for (name, lease) in names.iter().zip(&leases) {
        refused(&*client, &bench.request(name)).await;
        release(&*client, lease).await;
        let (again, _) = granted(&*client, &bench.request(name)).await;
        release(&*client, &again).await;
    }
}

// verifies: P5, cancelled
pub(super) async fn a_cancelled_acquire_leaves_no_lock_behind(bench: &Bench<'_>) {
    let locker = Locker::builder(bench.client().await).build().expect("the defaults fit");
    let other = bench.client().await;
    for polls in 1..50 {
        let name = bench.name(&polls.to_string());
        {
            let mut acquiring = pin!(locker.try_acquire(name.as_str()));
            let mut done = false;
            for _ in 0..polls {
                if let Poll::Ready(outcome) = poll!(acquiring.as_mut()) {
                    drop(outcome.expect("the store answers"));
                    done = true;
                    break;
                }
                // A request to a real store takes time: each round drops it a little later.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            if done {
                granted_soon(&other, &bench.request(&name)).await;
                return;
            }
        }
        granted_soon(&other, &bench.request(&name)).await;
    }
}
