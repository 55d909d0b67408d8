//! Runs the conformance suite on each store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Tampering},
};

use crate::fixture::{Bucket, Kind, foreign_record};

#[async_trait]
impl Subject for Bucket {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.backend())
    }

    /// Ages are whole seconds, and an attempt is up to six requests.
    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// A dead holder's lock becomes free one second after its ttl.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + Duration::from_millis(1_100)).await;
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            // The token is kept in the record.
            Tampering::DeleteRecord | Tampering::DeleteToken => self.delete(name),
            Tampering::ReplaceRecord => self.put(name, &foreign_record(name)),
            Tampering::AddOddEntry => self.put(name, "no lock"),
            _ => return false,
        }
        true
    }
}

/// The suite on one store.
macro_rules! on {
    ($module:ident, $kind:ident) => {
        mod $module {
            use super::*;

            lock_core::conformance! {
                #[tokio::test]
                Bucket::new(Kind::$kind).await,
                except = [
                    (modes, "all locks are exclusive"),
                    (a_waiter_of_another_mode_releases_what_is_handed_over, "all locks are exclusive"),
                    (fair, "waiters have no places in a queue"),
                    (an_open_descriptor_keeps_the_lock_held, "the lock lives in a bucket"),
                    (a_watch_completes_after_the_release, "an object store wakes no client"),
                    (an_unused_wake_up_reaches_another_watcher, "an object store wakes no client"),
                ]
            }
        }
    };
}

on! { moto, Moto }
on! { seaweedfs, SeaweedFs }
on! { azurite, Azurite }
on! { gcs, Gcs }
