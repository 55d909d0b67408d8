//! Cases of the calls for waiters and operators: watch, inspect, list, break, purge, diagnose.

use std::{pin::pin, time::Duration};

use futures_util::{future::select_all, poll};
use tokio::time::timeout;

use crate::{
    backend::{AcquireRequest, Break, End, Level, Renewal},
    testing::{
        cases::modes::joinable,
        harness::{Bench, admin, granted, refused, release},
    },
    types::{ErrorKind, LeaseId, LockName},
};

pub(super) async fn a_watch_completes_after_the_release(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("watched");
    // Longer than anything here waits. A store may refuse an id that was released before.
    let long = || bench.request(&name).with_ttl(Duration::from_secs(600));
    for _ in 0..5 {
        let (lease, _) = granted(&*a, &long()).await;
        let mut watch = b.watch(&name).await.expect("the store answers").expect("the capability wake-up is declared");
        refused(&*b, &bench.request(&name)).await;
        release(&*a, &lease).await;
        let seen = timeout(Duration::from_secs(60), watch.changed()).await;
        assert!(seen.is_ok(), "a release after the start of the watch completes it");
        // After a dropped call, the next call still sees the change.
        let (lease, _) = granted(&*a, &long()).await;
        {
            let mut abandoned = pin!(watch.changed());
            let _ = poll!(abandoned.as_mut());
        }
        release(&*a, &lease).await;
        assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_ok(), "changed() is cancel safe");
    }
    // A process that lets others have the lock begins to watch after its own release.
    let mut watch = b.watch(&name).await.expect("the store answers").expect("the capability wake-up is declared");
    let (lease, _) = granted(&*a, &long()).await;
    release(&*a, &lease).await;
    assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_ok(), "the watch began while the lock was free");
    for mode in joinable(&*a) {
        let name = bench.name("watched-part");
        let long = || bench.request(&name).with_ttl(Duration::from_secs(600));
        let (lease, _) = granted(&*a, &long().with_mode(mode)).await;
        let writer = long().with_waits(true);
        refused(&*b, &writer).await;
        let mut watch = b.watch(&name).await.expect("the store answers").expect("the capability wake-up is declared");
        refused(&*b, &writer).await;
        release(&*a, &lease).await;
        let seen = timeout(Duration::from_secs(60), watch.changed()).await;
        assert!(seen.is_ok(), "the release of the only {mode} lock completes the watch of a writer");
        let (lease, _) = granted(&*b, &writer).await;
        release(&*b, &lease).await;
    }
}

pub(super) async fn an_unused_wake_up_reaches_another_watcher(bench: &Bench<'_>) {
    let (a, b, c) = (bench.client().await, bench.client().await, bench.client().await);
    let name = bench.name("passed-on");
    // Longer than anything here waits.
    let long = bench.request(&name).with_ttl(Duration::from_secs(600));
    let (lease, _) = granted(&*a, &long).await;
    let mut watches = Vec::new();
    for client in [&b, &c] {
        watches
            .push(client.watch(&name).await.expect("the store answers").expect("the capability wake-up is declared"));
    }
    release(&*a, &lease).await;
    let changed = select_all(watches.iter_mut().map(|watch| watch.changed()));
    let (_, woken, _) = timeout(Duration::from_secs(60), changed).await.expect("a release wakes one of the watchers");
    drop(watches.remove(woken));
    let passed = timeout(Duration::from_secs(60), watches[0].changed()).await;
    assert!(passed.is_ok(), "a dropped watcher passes its wake-up on");
}

pub(super) async fn inspect_reports_the_holder_until_release(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("inspected");
    assert_eq!(admin(&b).inspect(&name).await.expect("the store answers"), None);
    let request = AcquireRequest { owner: "me".into(), ..bench.request(&name) };
    let (lease, _) = granted(&*a, &request).await;
    let holder = admin(&b).inspect(&name).await.expect("the store answers").expect("it is held");
    assert_eq!(holder.owner.as_deref(), Some("me"));
    assert_eq!(holder.token, lease.token);
    assert_eq!(admin(&b).last_holder(&name).await.expect("the store answers"), None, "the lock is held");
    release(&*a, &lease).await;
    assert_eq!(admin(&b).inspect(&name).await.expect("the store answers"), None);
    if let Some(past) = admin(&b).last_holder(&name).await.expect("the store answers") {
        assert_eq!((past.holder.owner.as_deref(), past.end), (Some("me"), End::Released));
    }
}

pub(super) async fn list_returns_held_locks_under_a_prefix(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let prefix = format!("List/{}/", LeaseId::random());
    let mut leases = Vec::new();
    for short in ["b", "A", "a/é\n", "gone"] {
        let name = LockName::new(format!("{prefix}{short}")).expect("short and not empty");
        let request = AcquireRequest { owner: short.into(), ..bench.request(&name) };
        leases.push(granted(&*a, &request).await.0);
    }
    let (other, _) = granted(&*a, &bench.request(&bench.name("elsewhere"))).await;
    release(&*a, &leases.pop().expect("four were taken")).await;
    let listed = admin(&b).list(&prefix).await.expect("the store answers").locks;
    let shown: Vec<_> =
        listed.iter().map(|(name, holder)| (&name.as_str()[prefix.len()..], holder.owner.as_deref())).collect();
    assert_eq!(shown, [("A", Some("A")), ("a/é\n", Some("a/é\n")), ("b", Some("b"))]);
    for lease in leases.iter().chain([&other]) {
        release(&*a, lease).await;
    }
}

// verifies: P6
pub(super) async fn breaking_requires_the_current_lock_version(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("compared");
    let long = bench.request(&name);
    let (first, _) = granted(&*a, &long).await;
    let stale = refused(&*b, &bench.request(&name)).await.version.expect("a lock that can be broken has a version");
    release(&*a, &first).await;
    assert_eq!(admin(&b).break_lock(&name, &stale, "suite").await.expect("the store answers"), Break::Changed(None));
    let (second, _) = granted(&*a, &AcquireRequest { id: LeaseId::random(), ..long }).await;
    match admin(&b).break_lock(&name, &stale, "suite").await.expect("the store answers") {
        Break::Changed(Some(_)) => {}
        other => panic!("a stale version broke the lock of a newer holder: {other:?}"),
    }
    assert_eq!(a.renew(&second).await.expect("the store answers"), Renewal::Renewed);
    release(&*a, &second).await;
}

// verifies: P11
pub(super) async fn diagnose_finds_the_store_fit_and_changes_nothing(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let (held, free) = (bench.name("held"), bench.name("free"));
    let long = bench.request(&held);
    let (lease, _) = granted(&*a, &long).await;
    for client in [&a, &b] {
        let findings = client.diagnose().await;
        let unfit: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Unfit).collect();
        assert!(unfit.is_empty(), "a working store was reported unfit: {unfit:?}");
    }
    assert_eq!(a.renew(&lease).await.expect("the store answers"), Renewal::Renewed);
    refused(&*b, &AcquireRequest { id: LeaseId::random(), ..long }).await;
    let (other, grant) = granted(&*b, &bench.request(&free)).await;
    assert_eq!(grant.crashed, None);
    release(&*b, &other).await;
    release(&*a, &lease).await;
}

// verifies: P6
pub(super) async fn purge_keeps_held_and_crashed_locks(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("forgotten");
    let purged = match a.require_admin() {
        Ok(admin) => admin.purge(&name).await,
        Err(error) => Err(error),
    };
    match purged {
        Ok(forgotten) => assert!(forgotten, "of a name that was never used there is nothing to keep"),
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    let long = bench.request(&name);
    let (lease, _) = granted(&*a, &long).await;
    assert!(!admin(&b).purge(&name).await.expect("the store answers"), "forgot a lock that is held");
    refused(&*b, &bench.request(&name)).await;
    assert_eq!(a.renew(&lease).await.expect("the store answers"), Renewal::Renewed);
    release(&*a, &lease).await;
    assert!(admin(&b).purge(&name).await.expect("the store answers"));
    let (again, grant) = granted(&*a, &bench.short_request(&name)).await;
    assert_eq!((grant.crashed, grant.already_ours), (None, false));
    // This holder crashes without a release, so the next grant must report it.
    bench.subject.crash(a).await;
    assert!(!admin(&b).purge(&name).await.expect("the store answers"), "forgot that a holder crashed");
    let (next, grant) = bench.granted_in_the_end(&*b, &bench.request(&name)).await;
    assert!(grant.crashed.is_some() || !b.capabilities().holder, "the grant did not report the crashed holder");
    assert!(next.token.is_none() || next.token > again.token, "{:?} after {:?}", next.token, again.token);
    release(&*b, &next).await;
    assert!(admin(&b).purge(&name).await.expect("the store answers"), "what was released since can be forgotten");
}

// verifies: P11
pub(super) async fn operators_calls_are_there_where_declared(bench: &Bench<'_>) {
    let client = bench.client().await;
    let declared = client.capabilities();
    if declared.inspect || declared.list || declared.break_lock {
        let admin = client.require_admin().expect("a capability of operators is declared");
        let name = bench.name("unused");
        let unsupported = |error: crate::Error| error.kind() == ErrorKind::Unsupported;
        // What is declared is supported; what is not declared may be.
        assert!(!declared.inspect || !admin.inspect(&name).await.is_err_and(unsupported), "inspect");
        assert!(!declared.list || !admin.list(name.as_str()).await.is_err_and(unsupported), "list");
        // A break of a free lock asks the store, and changes nothing.
        assert!(!declared.break_lock || !admin.break_lock(&name, "0", "suite").await.is_err_and(unsupported), "break");
    } else {
        assert!(client.admin().is_none(), "operators' calls without a capability that declares them");
    }
}
