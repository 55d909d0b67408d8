//! Requests of a client, and what the tests expect of the answer.

use std::{num::NonZeroU16, time::Duration};

use lock_core::{
    Error, Holder, LockName, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Grant, Lease, LeaseId, Release, Renewal},
};

use crate::until;

/// A ttl that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// Returns a name.
///
/// # Panics
/// If it is not valid.
#[must_use]
pub fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// A request for an exclusive lock, of a client of its own.
#[must_use]
pub fn request(text: &str, ttl: Duration) -> AcquireRequest {
    AcquireRequest::new(name(text), LeaseId::random(), "test").with_ttl(ttl)
}

/// A request for a shared lock.
#[must_use]
pub fn reader(text: &str) -> AcquireRequest {
    request(text, LONG).with_mode(Mode::Shared)
}

/// A request for one of `of` permits.
///
/// # Panics
/// If `of` is zero.
#[must_use]
pub fn permit(text: &str, of: u16) -> AcquireRequest {
    request(text, LONG).with_mode(Mode::Permit { of: NonZeroU16::new(of).unwrap() })
}

/// A request for an exclusive lock that keeps later readers out while it is refused.
#[must_use]
pub fn waiting_writer(text: &str) -> AcquireRequest {
    request(text, LONG).with_waits(true)
}

/// Acquires a lock that is free.
///
/// # Panics
/// If it is held, or the store fails.
pub async fn granted(backend: &dyn Backend, request: &AcquireRequest) -> (Lease, Grant) {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(grant) => (request.lease(grant.token), grant),
        AcquireOutcome::Contended(holder) => panic!("{} is held by {holder}", request.name),
    }
}

/// Tries a lock that is held.
///
/// # Panics
/// If it is free, or the store fails.
pub async fn refused(backend: &dyn Backend, request: &AcquireRequest) -> Holder {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(_) => panic!("{} was free", request.name),
        AcquireOutcome::Contended(holder) => holder,
    }
}

/// Renews a lock that is held.
///
/// # Panics
/// If it is not, or the store fails.
pub async fn renewed(backend: &dyn Backend, lease: &Lease) {
    assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed);
}

/// Releases a lock that is held.
///
/// # Panics
/// If it is not, or the store fails.
pub async fn released(backend: &dyn Backend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

/// Reads the lock "job", two of whose readers have crashed while another one stays. The crashes are
/// reported together to the next reader alone. Releases the lock at the end.
///
/// # Panics
/// If they are not, or the store fails.
pub async fn reported_once_together(backend: &dyn Backend, staying: Lease, crashed: [Lease; 2]) {
    let (joined, grant) = granted(backend, &reader("job")).await;
    let holder = grant.crashed.expect("two crashed");
    let mut named: Vec<_> = [&holder].into_iter().chain(&holder.others).filter_map(|one| one.version.clone()).collect();
    let mut expected = crashed.map(|lease| lease.id.to_string());
    named.sort();
    expected.sort();
    assert_eq!((&named[..], holder.mode), (&expected[..], Mode::Shared));
    let (again, grant) = granted(backend, &reader("job")).await;
    assert_eq!(grant.crashed, None, "each crash is reported once");
    for lease in [joined, again, staying] {
        released(backend, &lease).await;
    }
    assert_eq!(granted(backend, &request("job", LONG)).await.1.crashed, None);
}

/// Repeats `ask` until it succeeds, once the network works again.
///
/// # Panics
/// At an error that no repetition repairs.
pub async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let mut answer = None;
    until("the answer", async || {
        match ask().await {
            Ok(value) => answer = Some(value),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        answer.is_some()
    })
    .await;
    answer.unwrap()
}
