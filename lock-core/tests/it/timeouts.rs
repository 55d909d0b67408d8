//! A timeout error names the operation and the lock.

use crate::fixture::*;
use lock_core::{Error, ErrorKind, Operation, Renew, TryAcquire, backend::Release, faults::Fault};

#[track_caller]
fn names<T>(outcome: Result<T, Error>, operation: Operation, begin: &str) {
    let Err(error) = outcome else { panic!("{operation:?} was answered") };
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, Some(operation)), "{error}");
    assert!(error.to_string().starts_with(begin), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_names_the_operation_that_timed_out() {
    let fixture = Fixture::with(|builder| builder.ttl(secs(600)).renew(Renew::Manual));
    for operation in [
        Operation::Acquire,
        Operation::Renew,
        Operation::Release,
        Operation::Inspect,
        Operation::Break,
        Operation::Purge,
    ] {
        fixture.network.always(operation, Fault::LoseRequest);
    }
    names(fixture.locker.try_acquire(NAME).await, Operation::Acquire, "acquire \"nightly-etl\"");
    fixture.network.always(Operation::Acquire, None);
    let TryAcquire::Acquired(guard) = fixture.locker.try_acquire(NAME).await.unwrap() else { panic!("it is free") };
    tokio::time::sleep(secs(100)).await;
    names(guard.renew_if_below(secs(500)).await, Operation::Renew, "renew \"nightly-etl\" on memory:");
    names(fixture.locker.admin().inspect(NAME).await, Operation::Inspect, "inspect \"nightly-etl\" on memory:");
    names(fixture.locker.admin().purge(NAME).await, Operation::Purge, "purge \"nightly-etl\" on memory:");
    let seen = fixture.other().admin().inspect(NAME).await.unwrap().unwrap();
    names(
        fixture.locker.admin().break_lock(NAME, &seen, "me").await,
        Operation::Break,
        "break \"nightly-etl\" on memory:",
    );
    names(guard.release().await, Operation::Release, "release \"nightly-etl\" on memory:");
    fixture.network.always(Operation::Release, None);
    let guard = acquired(fixture.locker.acquire_within(NAME, 2 * TTL).await);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}
