//! Cases for stores behind a network: requests and replies that are lost, late, doubled or cut off.
//! The right owner keeps the lock, and no orphan is left.
//!
//! [`on_each_network!`](crate::on_each_network) makes a test of each case and each network.

#![expect(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::future_not_send,
    reason = "the cases are tests, and their names say what they show"
)]

pub mod exclusive;
pub mod parts;

use std::{sync::Arc, time::Duration};

use lock_core::{
    Locker,
    backend::{Admin, Backend},
};

use crate::{Direction, Proxy};

/// The lock that all cases use.
pub const JOB: &str = "job";

/// A connected client behind proxies, and a client with a direct connection that observes [`JOB`].
#[expect(async_fn_in_trait, reason = "the cases spawn none of the futures")]
pub trait Network {
    /// The client of this store.
    type Store: Backend + Admin;

    /// A delay of replies above the timeout of the client.
    const TOO_LATE: Duration;

    /// Returns whether the servers vote. An attempt that reaches too few of them is rolled back,
    /// also a repeated one, and they may mint different tokens.
    fn is_quorum(&self) -> bool {
        false
    }

    /// Returns whether a request may succeed although a connection is cut, because the client
    /// repeats it, or because other servers answer.
    fn survives_cuts(&self) -> bool {
        false
    }

    /// Returns whether the store tells the holder who repeats a release that it has released.
    fn recognizes_a_repeated_release(&self) -> bool {
        false
    }

    /// The proxies before the servers.
    fn proxies(&self) -> &[Proxy];

    /// The client behind the proxies.
    fn through(&self) -> &Self::Store;

    /// The client with a direct connection.
    fn direct(&self) -> &Self::Store;

    /// Makes another client behind the proxies.
    fn another(&self) -> Self::Store;

    /// Returns the id of the holder of [`JOB`], as the store keeps it.
    async fn holder_id(&self) -> String;

    /// Returns how many requests for [`JOB`] each server has run, granted or not.
    fn requests_run(&self) -> Vec<u64>;

    /// Waits until the servers run no request.
    async fn settled(&self) {}

    /// Heals the network, and waits until every server has run as many requests that were held
    /// back.
    async fn let_arrive(&self, requests: u64) {
        let before = self.requests_run();
        self.heal();
        let arrived = async || self.requests_run().iter().zip(&before).all(|(now, before)| *now >= before + requests);
        crate::until("the delayed requests to arrive", arrived).await;
        self.settled().await;
    }

    /// Loses what is sent in this direction.
    fn lose(&self, direction: Direction) {
        self.proxies().iter().for_each(|proxy| proxy.lose(direction));
    }

    /// Holds back what is sent in this direction.
    fn hold(&self, direction: Direction) {
        self.proxies().iter().for_each(|proxy| proxy.hold(direction));
    }

    /// Delays what is sent in this direction.
    fn delay(&self, direction: Direction, delay: Duration) {
        self.proxies().iter().for_each(|proxy| proxy.delay(direction, delay));
    }

    /// Cuts all connections.
    fn cut(&self) {
        self.proxies().iter().for_each(Proxy::cut);
    }

    /// Lets everything pass, also what was held back.
    fn heal(&self) {
        self.proxies().iter().for_each(Proxy::heal);
    }

    /// Returns whether [`JOB`] is free.
    async fn is_free(&self) -> bool {
        self.direct().inspect(&crate::requests::name(JOB)).await.unwrap().is_none()
    }
}

fn locker(backend: impl Backend, ttl: Duration) -> Locker {
    Locker::builder(Arc::new(backend)).ttl(ttl).build().unwrap()
}

/// Makes a test of each case on each network.
///
/// `on_each_network!(Fixture [plain tls] cases [one two])` makes the tests `plain::one` to
/// `tls::two`. Each calls `cases::one(Fixture::plain().await)`, and so on.
#[macro_export]
macro_rules! on_each_network {
    ($fixture:ident [$($network:ident)*] $module:ident $cases:tt) => {
        $( $crate::on_each_network!(@ $fixture $network $module $cases); )*
    };
    (@ $fixture:ident $network:ident $module:ident [$($case:ident)*]) => {
        mod $network {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$module::$case(super::$fixture::$network().await).await;
                }
            )*
        }
    };
}
