//! Helpers of this crate's tests.

use std::time::Duration;

use lock_core::{
    Holder, LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Grant, Lease, LeaseId, Release},
};

pub(crate) const TTL: Duration = Duration::from_secs(60);

/// A request for the exclusive lock `name`.
pub(crate) fn writer(name: &str) -> AcquireRequest {
    AcquireRequest::new(LockName::new(name).unwrap(), LeaseId::random(), "me").with_ttl(TTL)
}

pub(crate) async fn grant(backend: &dyn Backend, request: &AcquireRequest) -> Grant {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Granted(grant) => grant,
        AcquireOutcome::Contended(holder) => panic!("{} is held by {holder}", request.name),
    }
}

pub(crate) async fn granted(backend: &dyn Backend, request: &AcquireRequest) -> Lease {
    request.lease(grant(backend, request).await.token)
}

pub(crate) async fn refused(backend: &dyn Backend, request: &AcquireRequest) -> Holder {
    match backend.acquire(request).await.unwrap() {
        AcquireOutcome::Contended(holder) => holder,
        AcquireOutcome::Granted(_) => panic!("two clients hold {}", request.name),
    }
}

pub(crate) async fn release(backend: &dyn Backend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}
