//! A request that its program has begun and does not drive any more, beside requests of others.

use std::{
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use lock_core::backend::Backend;

use crate::{
    requests::{LONG, granted, renewed, request},
    until,
};

/// Begins a request. Nothing drives it further until the caller awaits what this returns.
///
/// # Panics
/// If the request ends at once.
pub fn undriven<F: Future>(request: F) -> Pin<Box<F>> {
    let mut request = Box::pin(request);
    let first = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending(), "the request ended at once, so it could keep no other one waiting");
    request
}

/// Waits for a request beside one that is not driven.
///
/// # Panics
/// If it takes longer than 60 s.
pub async fn driven<F: Future>(request: F) -> F::Output {
    let ended = tokio::time::timeout(Duration::from_secs(60), request).await;
    ended.expect("it does not wait for a request that is not driven")
}

/// Leaves the request that connects without polls, and requires that others connect.
///
/// They wait less than it takes to connect, as in a quorum or with a short ttl.
///
/// # Panics
/// If they do not connect within 60 s.
pub async fn others_connect(backend: &dyn Backend) {
    let (first, second) = (request("first", LONG), request("second", LONG));
    let stuck = undriven(backend.acquire(&first));
    let lease = second.lease(None);
    until("another request to connect", async || {
        let patience = Duration::from_millis(100);
        tokio::time::timeout(patience, backend.renew(&lease)).await.is_ok_and(|renewed| renewed.is_ok())
    })
    .await;
    let (lease, _) = granted(backend, &second).await;
    renewed(backend, &lease).await;
    let _ = stuck.await;
    renewed(backend, &lease).await;
}
