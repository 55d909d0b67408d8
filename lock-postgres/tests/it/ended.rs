//! What a row keeps of ids and parts that have ended.

use std::time::Duration;

use lock_core::{
    LossReason,
    backend::{Admin, Backend, Break, Lease, Release, Renewal},
};
use lock_postgres::PostgresBackend;

use crate::fixture::{LONG, client, granted, name, permit, reader, refused, request, server};

async fn not_held(backend: &PostgresBackend, lease: &Lease) {
    assert!(matches!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::NotHeld(_)));
}

#[tokio::test]
// verifies: late-request
async fn ids_given_up_after_a_break_are_refused() {
    let server = server();
    let backend = client(server.addr());
    let (broken, _) = granted(&backend, &request("job", LONG)).await;
    let version = backend.inspect(&broken.name).await.unwrap().unwrap().version.unwrap();
    assert_eq!(backend.break_lock(&broken.name, &version, "alice").await.unwrap(), Break::Broken);
    let given_up = [request("job", LONG), request("job", LONG)];
    for late in &given_up {
        not_held(&backend, &late.lease(None)).await;
        // Twice, because a release may be repeated.
        not_held(&backend, &late.lease(None)).await;
    }
    for _ in 0..2 {
        for late in &given_up {
            let error = backend.acquire(late).await.unwrap_err();
            assert!(error.to_string().contains("after its lease id had been released"), "{error}");
        }
        assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
        // Only shared locks are used since. They leave the reason of the loss in its place.
        let (part, _) = granted(&backend, &reader("job")).await;
        assert_eq!(backend.release(&part, Duration::ZERO).await.unwrap(), Release::Released);
        assert_eq!(backend.renew(&broken).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    }
    assert_eq!(server.sql("select cardinality(ended_ids), cardinality(ended_by) from onelock"), "4|4");
}

#[tokio::test]
// verifies: late-request
async fn an_id_given_up_beside_a_holder_is_refused_after_it() {
    let server = server();
    let backend = client(server.addr());
    let (holder, _) = granted(&backend, &request("job", LONG)).await;
    let late = request("job", LONG);
    not_held(&backend, &late.lease(None)).await;
    assert_eq!(backend.renew(&holder).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&holder, Duration::ZERO).await.unwrap(), Release::Released);
    let error = backend.acquire(&late).await.unwrap_err();
    assert!(error.to_string().contains("after its lease id had been released"), "{error}");
    assert_eq!(backend.inspect(&name("job")).await.unwrap(), None);
}

#[tokio::test]
async fn minimum_holds_keep_no_data_and_go_when_they_are_over() {
    let server = server();
    let backend = client(server.addr());
    let (staying, _) = granted(&backend, &permit("job", 9)).await;
    for _ in 0..3 {
        let (lease, _) = granted(&backend, &permit("job", 9).with_data(b"data".to_vec())).await;
        assert_eq!(backend.release(&lease, LONG).await.unwrap(), Release::Released);
    }
    let parts = "select cardinality(part_ids), (select count(*) from unnest(part_data) d where d is not null)
        from onelock";
    assert_eq!(server.sql(parts), "4|0");
    server.sql("update onelock set part_ends[2] = now() - interval '1 s', part_ends[3] = now() - interval '1 s'");
    let (lease, _) = granted(&backend, &permit("job", 9)).await;
    server.sql("update onelock set part_ends[2] = now() - interval '1 s'");
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(server.sql(parts), "1|0");
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn an_expired_part_that_others_removed_is_lost_by_expiry() {
    let server = server();
    let backend = client(server.addr());
    let (expired, _) = granted(&backend, &reader("job")).await;
    server.sql("update onelock set part_ends = array[now() - interval '1 s'], expires_at = now() - interval '1 s'");
    let (other, _) = granted(&backend, &reader("job")).await;
    assert_eq!(server.sql("select cardinality(part_ids) from onelock"), "1", "the next one removes the part");
    assert_eq!(backend.renew(&expired).await.unwrap(), Renewal::Lost(LossReason::Expired));
    assert_eq!(backend.renew(&other).await.unwrap(), Renewal::Renewed);
    refused(&backend, &request("job", LONG)).await;
}
