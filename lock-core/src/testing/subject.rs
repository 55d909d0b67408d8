//! What a backend gives to the suite.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{backend::Backend, types::LockName};

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Returns a new client of the store, equivalent to a client in another process. All clients of
    /// one subject see the same locks.
    async fn client(&self) -> Arc<dyn Backend>;

    /// Returns the ttl that the cases use: short, but much longer than one request takes. Default:
    /// 500 ms.
    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Advances the store's time. Default: sleeps.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends a client as if its process had been killed, and waits until the store can detect that.
    ///
    /// Default: drops the client and lets one ttl pass. Where locks have no ttl, the client's locks
    /// must be free when this method returns.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + self.ttl() / 10).await;
    }

    /// Returns whether several servers vote, so that simultaneous contenders may all miss a
    /// majority. Default: `false`.
    fn votes(&self) -> bool {
        false
    }

    /// Returns whether a client gets a part again if it asks again with an id that it has released.
    /// Default: `false`, because a network may deliver the first request twice.
    ///
    /// Some stores tell a copy of a request from a new request, or no network repeats their
    /// requests. Their own tests have to show that a copy gets nothing.
    fn may_ask_again(&self) -> bool {
        false
    }

    /// Returns how many bytes a name may have at most, for a format of another program with less
    /// room than [`LockName::MAX_BYTES`], the default. The cases then use short names without NUL.
    fn longest_name(&self) -> usize {
        LockName::MAX_BYTES
    }

    /// Changes the store's record of `name` as a third party could, bypassing the backend.
    ///
    /// Returns `false`, the default, if the subject cannot do that. The cases that need this
    /// kind of tampering must then be excepted, with the reason.
    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        let _ = (what, name);
        false
    }
}

/// A change that a third party makes to the store without the clients' knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tampering {
    /// Deletes the record of the current holder.
    DeleteRecord,
    /// Replaces the record with a long lease of another client.
    ReplaceRecord,
    /// Deletes the fencing token that the store keeps for a free name.
    DeleteToken,
    /// Puts an entry that is no lock at the place of a name that was never used.
    AddOddEntry,
}
