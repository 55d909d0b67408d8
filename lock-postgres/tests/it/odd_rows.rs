//! Rows of shared locks and permits that another client or an operator has changed.

use std::time::Duration;

use lock_core::{
    ErrorKind, Holder, LossReason, Mode,
    backend::{Admin, Backend, Release, Renewal},
};

use crate::fixture::{LONG, client, granted, permit, reader, refused, renewed, request, server};

#[tokio::test]
// verifies: P1, P9
async fn a_holder_of_an_earlier_version_is_not_joined() {
    let server = server();
    let backend = client(server.addr());
    let (before, _) = granted(&backend, &reader("job")).await;
    // An earlier version judges `expires_at`, and knows neither the mode nor the parts.
    server.sql(
        "update onelock set part_ends = array[now() - interval '1 second'], id = gen_random_uuid(), owner = 'earlier',
            seq = seq + 1, token = token + 1, acquired_at = now(), expires_at = now() + interval '10 minutes'",
    );
    for request in [reader("job"), permit("job", 2), request("job", LONG)] {
        let holder = refused(&backend, &request).await;
        assert_eq!((holder.owner.as_deref(), holder.mode, holder.count()), (Some("earlier"), Mode::Exclusive, 1));
    }
    let lost = backend.renew(&before).await.unwrap();
    assert!(matches!(lost, Renewal::Lost(LossReason::TakenBy(_))), "{lost:?}");
    server.sql("update onelock set part_ends = array[now() + interval '10 minutes']");
    assert!(matches!(backend.renew(&before).await, Ok(Renewal::Lost(_))), "the lock has another holder");
    refused(&backend, &reader("job")).await;
    server.sql("update onelock set expires_at = now() - interval '1 second'");
    let (_, grant) = granted(&backend, &reader("job")).await;
    assert_eq!(grant.crashed.and_then(|crashed| crashed.owner).as_deref(), Some("earlier"));
    assert!(matches!(backend.renew(&before).await, Ok(Renewal::Lost(_))), "its part ended");
}

#[tokio::test]
// verifies: P1
async fn a_lock_that_an_operator_ended_by_sql_keeps_no_parts() {
    let server = server();
    let backend = client(server.addr());
    for (number, next) in [permit("job", 1), reader("job"), request("job", LONG)].into_iter().enumerate() {
        server.sql("delete from onelock");
        let (first, _) = granted(&backend, &permit("job", 1)).await;
        server.sql("update onelock set expires_at = now() - interval '1 second'");
        if number == 0 {
            let lost = backend.renew(&first).await.unwrap();
            assert!(matches!(lost, Renewal::Lost(_)), "a renewal holds the lock again: {lost:?}");
        }
        let (second, _) = granted(&backend, &next).await;
        let lost = backend.renew(&first).await.unwrap();
        assert!(matches!(lost, Renewal::Lost(_)), "two holders of one permit: {lost:?}");
        renewed(&backend, &second).await;
    }
}

#[tokio::test]
// verifies: P1
async fn a_release_revives_no_lock_that_an_operator_ended() {
    let server = server();
    let backend = client(server.addr());
    for hold_for in [Duration::ZERO, LONG] {
        let (crashed, _) = granted(&backend, &reader("job")).await;
        let (first, _) = granted(&backend, &reader("job")).await;
        let (second, _) = granted(&backend, &reader("job")).await;
        let (kept, _) = granted(&backend, &reader("job")).await;
        assert_eq!(backend.release(&kept, LONG).await.unwrap(), Release::Released);
        server.sql(
            "update onelock set part_ends[1] = now() - interval '1 second', expires_at = now() - interval '1 second'",
        );
        assert_eq!(backend.release(&first, hold_for).await.unwrap(), Release::Released);
        let holder = backend.inspect(&first.name).await.unwrap();
        assert_eq!(holder.map(|holder| holder.others.len()), (!hold_for.is_zero()).then_some(0), "{hold_for:?}");
        assert!(matches!(backend.renew(&second).await, Ok(Renewal::Lost(_))), "the lock was ended");
        // The minimum hold ends.
        server.sql("update onelock set part_ends[2] = now(), expires_at = now() where cardinality(part_ends) = 2");
        let (last, grant) = granted(&backend, &reader("job")).await;
        assert_eq!(grant.crashed.map(|crashed| crashed.token), Some(crashed.token), "{hold_for:?}");
        assert_eq!(backend.release(&last, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: P12
async fn a_minimum_hold_of_an_earlier_version_is_not_joined() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &reader("job")).await;
    // The holder of the earlier version has released the lock.
    server.sql(
        "update onelock set part_ends = array[now() - interval '1 second'], id = null, owner = 'earlier',
            seq = seq + 2, token = token + 1, acquired_at = now(), expires_at = now() + interval '1 hour'",
    );
    for request in [reader("job"), permit("job", 2), request("job", LONG)] {
        refused(&backend, &request).await;
    }
}

#[tokio::test]
// verifies: odd-entries
async fn a_row_that_cannot_be_read_fails_no_other_renewal() {
    let server = server();
    let backend = client(server.addr());
    let (odd, _) = granted(&backend, &request("odd", LONG)).await;
    let (held, _) = granted(&backend, &request("held", LONG)).await;
    server.sql("update onelock set id = null, acquired_at = null, mode = 'many', seq = seq + 1 where name = 'odd'");
    let mut renewals = backend.renew_many(&[odd, held]).await.into_iter();
    assert_eq!(renewals.next().unwrap().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(renewals.next().unwrap().unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: P9, odd-entries
async fn an_ended_lock_in_an_unknown_mode_is_granted_as_after_a_crash() {
    let server = server();
    let backend = client(server.addr());
    for request in [request("job", LONG), reader("job"), permit("job", 2)] {
        server.sql("delete from onelock");
        granted(&backend, &reader("job")).await;
        server.sql("update onelock set mode = 'many', part_ends = array[now()], expires_at = now()");
        let (lease, grant) = granted(&backend, &request).await;
        assert_eq!(grant.crashed, Some(Holder::default()), "a holder may have crashed");
        renewed(&backend, &lease).await;
    }
}
