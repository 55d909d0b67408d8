//! Requests that reach the memory store after their acquisition was released.

use std::{num::NonZeroU16, time::Duration};

use lock_core::{
    LockName, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Break, LeaseId, Renewal},
    memory::MemoryBackend,
};

use crate::fixture::NAME;

const MODES: [Mode; 3] = [Mode::Exclusive, Mode::Shared, Mode::Permit { of: NonZeroU16::MIN }];

fn request(mode: Mode) -> AcquireRequest {
    AcquireRequest::new(LockName::new(NAME).unwrap(), LeaseId::random(), "a test").with_mode(mode)
}

async fn is_granted(store: &MemoryBackend, request: &AcquireRequest) -> bool {
    matches!(store.acquire(request).await.unwrap(), AcquireOutcome::Granted(_))
}

async fn released(store: &MemoryBackend, request: &AcquireRequest) {
    let _ = store.release(&request.lease(None), Duration::ZERO).await.unwrap();
}

/// The client gave up before the request arrived.
#[tokio::test(start_paused = true)]
// verifies: P5, late-request, P12
async fn a_request_after_its_rollback_takes_nothing() {
    for mode in MODES {
        for fair in [false, true] {
            let store = MemoryBackend::new();
            let late = request(mode).with_waits(true).with_fair(fair);
            released(&store, &late).await;
            assert!(!is_granted(&store, &late).await, "{mode}");
            // Beside a holder of another mode, it would leave a mark or a place.
            let other = MODES.into_iter().find(|other| *other != mode).unwrap();
            let holder = request(other);
            assert!(is_granted(&store, &holder).await);
            assert!(!is_granted(&store, &late).await, "{mode}");
            released(&store, &holder).await;
            assert!(is_granted(&store, &holder.clone().with_id(LeaseId::random())).await, "{mode}");
        }
    }
}

#[tokio::test(start_paused = true)]
// verifies: P5, late-request, P12
async fn a_request_after_a_break_takes_nothing() {
    for mode in MODES {
        let store = MemoryBackend::new();
        let late = request(mode);
        assert!(is_granted(&store, &late).await);
        let (name, version) = (&late.name, late.id.to_string());
        let broken = store.admin().unwrap().break_lock(name, &version, "an operator").await.unwrap();
        assert_eq!(broken, Break::Broken);
        assert!(!is_granted(&store, &late).await, "{mode}");
        let next = request(mode);
        assert!(is_granted(&store, &next).await, "{mode}");
        assert!(!is_granted(&store, &late).await, "{mode}");
        assert_eq!(store.renew(&next.lease(None)).await.unwrap(), Renewal::Renewed);
        released(&store, &next).await;
    }
}
