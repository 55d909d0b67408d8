//! Shared locks and permits: their statements, their rows, and what third parties do to these.

use std::time::Duration;

use lock_core::{
    ErrorKind, Holder, LossReason, Mode,
    backend::{AcquireOutcome, Admin, Backend, Break, Grant, Lease, Level, Release, Renewal},
};
use lock_postgres::{Replicas, Schema};
use test_support::{postgres::PostgresServer, requests::reported_once_together, until};

use crate::fixture::{
    LONG, at, backend, client, create_table, granted, name, permit, reader, refused, released, renewed, request,
    server, waiting_writer,
};

/// Lets the part of `lease` end, as if its holder had crashed.
fn ends(server: &PostgresServer, lease: &Lease) {
    server.sql(&format!(
        "update onelock set part_ends[array_position(part_ids, '{id}')] = now() - interval '1 second',
            expires_at = coalesce(
                (select max(e) from unnest(part_ids, part_ends) p (id, e) where p.id <> '{id}'),
                now()
            )
        where '{id}' = any(part_ids)",
        id = lease.id
    ));
}

#[tokio::test]
async fn operations_on_parts_are_one_statement() {
    let server = PostgresServer::with_settings(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    create_table(&server);
    let backend = client(server.addr());
    let (exclusive, _) = granted(&backend, &request("exclusive", LONG)).await;
    server.sql("select pg_stat_statements_reset()");
    let mut before = 0;
    let mut statements = || {
        let all =
            server.sql("select coalesce(sum(calls), 0) from pg_stat_statements where query like '%onelock%name%'");
        let all: u64 = all.parse().unwrap();
        all - std::mem::replace(&mut before, all)
    };
    let mut leases = Vec::new();
    for n in 0..10 {
        leases.push(granted(&backend, &reader("job")).await.0);
        leases.push(granted(&backend, &permit(&format!("permits-{n}"), 2)).await.0);
    }
    assert_eq!(statements(), 20, "acquire");
    let renewals = backend.renew_many(&leases).await;
    assert!(renewals.into_iter().all(|renewal| renewal.unwrap() == Renewal::Renewed));
    assert_eq!(statements(), 1, "ten parts of one lock, and ten of others");
    for renewal in backend.renew_many(&[exclusive.clone(), leases[0].clone(), leases[1].clone()]).await {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
    assert_eq!(statements(), 2, "one for the exclusive locks and one for the others");
    refused(&backend, &reader("exclusive")).await;
    assert_eq!(statements(), 2, "a refusal reads the holders");
    refused(&backend, &waiting_writer("job")).await;
    assert_eq!(statements(), 2, "so does an exclusive request that several holders refuse");
    backend.inspect(&name("job")).await.unwrap();
    assert_eq!(statements(), 1, "inspect");
    for lease in &leases {
        released(&backend, lease).await;
    }
    assert_eq!(statements(), 20, "release");
    let (lease, _) = granted(&backend, &request("permits-1", LONG)).await;
    released(&backend, &lease).await;
    assert_eq!(statements(), 2, "an exclusive lock after parts");
}

#[tokio::test]
// verifies: P9, P12
async fn several_crashed_holders_are_reported_together() {
    let server = server();
    let backend = client(server.addr());
    let (staying, _) = granted(&backend, &reader("job")).await;
    let (first, _) = granted(&backend, &reader("job")).await;
    let (second, _) = granted(&backend, &reader("job")).await;
    ends(&server, &first);
    ends(&server, &second);
    assert_eq!(backend.inspect(&name("job")).await.unwrap().unwrap().count(), 1);
    reported_once_together(&backend, staying, [first, second]).await;
}

#[tokio::test]
// verifies: P9, P12
async fn a_crash_is_reported_across_modes() {
    let server = server();
    let backend = client(server.addr());
    for last in [false, true] {
        let (crashing, staying) = (reader("job"), reader("job"));
        let (first, second) = if last { (&staying, &crashing) } else { (&crashing, &staying) };
        granted(&backend, first).await;
        granted(&backend, second).await;
        ends(&server, &crashing.lease(None));
        released(&backend, &staying.lease(None)).await;
        assert_eq!(backend.inspect(&staying.name).await.unwrap(), None, "only a crashed part is left");
        assert!(!backend.purge(&staying.name).await.unwrap(), "the next holder must be told");
        let (lease, grant) = granted(&backend, &request("job", LONG)).await;
        let crashed = grant.crashed.expect("a reader crashed");
        assert_eq!((crashed.version, crashed.mode), (Some(crashing.id.to_string()), Mode::Shared));
        released(&backend, &lease).await;
        assert_eq!(granted(&backend, &crashing.clone().with_id(lease.id)).await.1.crashed, None, "reported once");
        released(&backend, &crashing.lease(None).with_id(lease.id)).await;
    }
    let (writer, _) = granted(&backend, &request("job", LONG)).await;
    server.sql("update onelock set expires_at = now() - interval '1 second'");
    let (_, grant) = granted(&backend, &reader("job")).await;
    let crashed = grant.crashed.expect("the writer crashed");
    assert_eq!((crashed.owner.as_deref(), crashed.token, crashed.mode), (Some("test"), writer.token, Mode::Exclusive));
    assert!(crashed.version.is_some_and(|version| version.parse::<i64>().is_ok()));
}

#[tokio::test]
async fn the_reason_of_a_lost_part_is_reported() {
    let server = server();
    let backend = client(server.addr());
    let (other, _) = granted(&backend, &reader("job")).await;
    let (expired, _) = granted(&backend, &reader("job")).await;
    let (broken, _) = granted(&backend, &reader("job")).await;
    let (gone, _) = granted(&backend, &reader("job")).await;
    released(&backend, &gone).await;
    assert_eq!(backend.break_lock(&other.name, &broken.id.to_string(), "alice").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&broken).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    assert_eq!(backend.renew(&gone).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    ends(&server, &expired);
    assert_eq!(backend.renew(&expired).await.unwrap(), Renewal::Lost(LossReason::Expired));
    renewed(&backend, &other).await;
    server.sql("delete from onelock");
    assert_eq!(backend.renew(&other).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    let (writer, _) = granted(&backend, &request("job", LONG)).await;
    assert!(matches!(backend.release(&other, Duration::ZERO).await, Ok(Release::NotHeld(Some(_)))));
    let (newcomer, stale) = (reader("job").lease(None), other);
    for lease in [&newcomer, &stale] {
        let lost = backend.renew(lease).await.unwrap();
        let by_writer =
            |lost: &Renewal| matches!(lost, Renewal::Lost(LossReason::TakenBy(by)) if by.mode == Mode::Exclusive);
        assert!(by_writer(&lost) || lost == Renewal::Lost(LossReason::RecordGone), "{lost:?}");
    }
    server.sql("delete from onelock");
    granted(&backend, &permit("job", 2)).await;
    for lease in [&writer, &newcomer] {
        let lost = backend.renew(lease).await.unwrap();
        assert!(matches!(&lost, Renewal::Lost(LossReason::TakenBy(by)) if by.mode != lease.mode), "{lost:?}");
        let Ok(Release::NotHeld(Some(by))) = backend.release(lease, Duration::ZERO).await else {
            panic!("it is taken")
        };
        assert!(by.mode != lease.mode, "{by}");
    }
}

#[tokio::test]
async fn many_holders_are_counted_and_the_first_named() {
    let server = server();
    let backend = client(server.addr());
    for n in 0..40_u64 {
        let request = reader("job").with_ttl(LONG + Duration::from_secs(n)).with_data(vec![b'x'; 100_000]);
        granted(&backend, &request).await;
    }
    let holder = refused(&backend, &request("job", LONG)).await;
    assert_eq!((holder.count(), holder.others.len()), (40, Holder::MOST_OTHERS));
    assert!(holder.expires_in.unwrap() <= LONG, "the first to expire comes first");
    let data = holder.others.iter().filter(|other| other.data.is_some()).count();
    assert_eq!(data, 9, "an answer has a megabyte of data at most");
    granted(&backend, &permit("k", 2)).await;
    let listed = backend.list("").await.unwrap().locks;
    let listed: Vec<_> = listed.iter().map(|(name, holder)| (name.as_str(), holder.count())).collect();
    assert_eq!(listed, [("job", 40), ("k", 1)]);
}

#[tokio::test]
async fn released_parts_leave_a_row_without_arrays() {
    let server = server();
    let backend = client(server.addr());
    let (first, _) = granted(&backend, &permit("job", 2)).await;
    let (second, _) = granted(&backend, &permit("job", 2)).await;
    released(&backend, &first).await;
    released(&backend, &second).await;
    let row = "select mode is null, part_ids is null, part_ends is null, part_data is null, expires_at <= now(),
        cardinality(ended_ids), cardinality(ended_by) from onelock";
    assert_eq!(server.sql(row), "t|t|t|t|t|2|2");
    assert!(backend.purge(&second.name).await.unwrap());
    assert_eq!(server.sql("select count(*) from onelock"), "0");
}

#[tokio::test]
// verifies: late-request, P12
async fn the_ids_of_the_last_ended_parts_are_refused() {
    let server = server();
    let backend = client(server.addr());
    let first = reader("job");
    granted(&backend, &first).await;
    released(&backend, &first.lease(None)).await;
    for _ in 0..63 {
        let (lease, _) = granted(&backend, &reader("job")).await;
        released(&backend, &lease).await;
    }
    let error = backend.acquire(&first).await.unwrap_err();
    assert!(error.to_string().contains("after its lease id had been released"), "{error}");
    assert_eq!(server.sql("select cardinality(ended_ids) from onelock"), "64");
    // An exclusive lock in between changes nothing about that.
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    released(&backend, &lease).await;
    assert!(backend.acquire(&first).await.is_err());
    assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
}

#[tokio::test]
async fn a_part_in_its_minimum_hold_cannot_be_broken_or_renewed() {
    let server = server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &permit("job", 1)).await;
    assert_eq!(backend.release(&lease, LONG).await.unwrap(), Release::Released);
    let holder = refused(&backend, &permit("job", 1)).await;
    assert_eq!((holder.owner.as_deref(), holder.version.as_deref()), (Some("test"), None));
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let broken = backend.break_lock(&lease.name, &lease.id.to_string(), "alice").await.unwrap();
    assert!(matches!(broken, Break::Changed(Some(_))), "{broken:?}");
    refused(&backend, &permit("job", 1)).await;
}

#[tokio::test]
// verifies: not-ours, odd-entries
async fn nonsense_in_the_arrays_frees_no_place() {
    let server = server();
    let backend = client(server.addr());
    let (first, _) = granted(&backend, &permit("job", 2)).await;
    server
        .sql("update onelock set part_ids = part_ids || null::uuid, part_ends = part_ends || 'infinity'::timestamptz");
    let holder = refused(&backend, &permit("job", 2)).await;
    assert_eq!(holder.count(), 2, "what is not known to be free is not given away");
    renewed(&backend, &first).await;
    server.sql("update onelock set part_owners = null, part_tokens = null, part_since = null, part_data = null");
    assert_eq!(refused(&backend, &request("job", LONG)).await.version, Some(first.id.to_string()));
    // The lock is held until its time, also if its holders are not known.
    server.sql("update onelock set part_ids = null, part_ends = null, expires_at = now() + interval '1 hour'");
    assert_eq!(refused(&backend, &request("job", LONG)).await.version, None);
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
}

#[tokio::test]
// verifies: odd-entries
async fn a_lock_in_an_unknown_mode_is_corrupt_and_hides_no_lock() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &reader("mine")).await;
    granted(&backend, &reader("job")).await;
    server.sql("update onelock set mode = 'many' where name = 'job'");
    for request in [reader("job"), permit("job", 2), request("job", LONG)] {
        assert_eq!(backend.acquire(&request).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let listed = backend.list("").await.unwrap();
    assert_eq!(listed.locks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["mine"]);
    assert_eq!(listed.odd().len(), 1);
}

#[tokio::test]
async fn renewals_of_parts_change_no_index() {
    let server = server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &reader("job")).await;
    for _ in 0..300 {
        renewed(&backend, &lease).await;
    }
    drop(backend);
    // The server counts when the connection ends.
    let counted =
        "select n_tup_upd >= 300, n_tup_upd = n_tup_hot_upd from pg_stat_user_tables where relname = 'onelock'";
    until("the counts", async || server.sql(counted).starts_with('t')).await;
    assert_eq!(server.sql(counted), "t|t");
}

#[tokio::test]
async fn parts_need_a_synchronous_standby_if_required() {
    let server = server();
    let backend = backend(at(server.addr()).replicas(Replicas::Sync));
    let direct = client(server.addr());
    let (lease, _) = granted(&direct, &reader("job")).await;
    for request in [reader("job"), reader("new"), permit("job", 2)] {
        assert_eq!(backend.acquire(&request).await.unwrap_err().kind(), ErrorKind::StoreNotReady);
    }
    assert_eq!(backend.renew(&lease).await.unwrap_err().kind(), ErrorKind::StoreNotReady);
    renewed(&direct, &lease).await;
}

#[tokio::test]
// verifies: P11, P12
async fn shedlock_rows_refuse_shared_locks_and_permits() {
    let server = PostgresServer::start();
    let backend = backend(at(server.addr()).schema(Schema::ShedLock));
    assert!(backend.init().await.unwrap());
    let capabilities = backend.capabilities();
    assert!(!capabilities.shared && !capabilities.permits);
    for request in [reader("job"), permit("job", 2)] {
        let error = backend.acquire(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false));
    }
    assert_eq!(server.sql("select count(*) from shedlock"), "0");
    assert!(backend.diagnose().await.iter().all(|finding| finding.level < Level::Unfit));
}

#[tokio::test]
async fn a_repeated_request_extends_its_part() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &reader("job")).await;
    let short = reader("job").with_ttl(Duration::from_secs(60));
    let (lease, _) = granted(&backend, &short).await;
    let again = backend.acquire(&short.clone().with_ttl(LONG * 2)).await.unwrap();
    let AcquireOutcome::Granted(Grant { token, already_ours: true, .. }) = again else { panic!("{again:?}") };
    assert_eq!(token, lease.token);
    let row = "select cardinality(part_ids), expires_at > now() + interval '19 minutes' from onelock";
    assert_eq!(server.sql(row), "2|t");
    assert!(backend.advance_token(&lease, lease.token.unwrap()).await.unwrap());
}
