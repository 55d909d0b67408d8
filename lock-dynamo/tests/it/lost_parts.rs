//! Requests and replies about shared locks and permits that are lost, late or repeated, while
//! another client holds the lock.

use std::time::Duration;

use lock_core::backend::Admin as _;
use lock_dynamo::{DynamoBackend, Schema};
use test_support::{
    Proxy,
    lost_messages::{JOB, Network, parts},
    on_each_network,
    requests::name,
    wire::Wire,
};

use crate::fixture::Table;

/// A connected client behind a proxy, and a client with a direct connection that observes [`JOB`].
struct Fixture {
    proxy: Proxy,
    /// Between the proxy and the server, where it counts what arrives.
    counter: Wire,
    through: DynamoBackend,
    direct: DynamoBackend,
    table: Table,
}

impl Fixture {
    async fn native() -> Self {
        let table = Table::new(Schema::Native).await;
        let counter = Wire::start(table.server.address());
        let proxy = Proxy::start(counter.address()).await;
        let through = client(&table, &proxy);
        let direct = DynamoBackend::new(table.config());
        Self { proxy, counter, through, direct, table }
    }
}

fn client(table: &Table, proxy: &Proxy) -> DynamoBackend {
    DynamoBackend::new(table.config_at(&format!("http://{}", proxy.addr())))
}

impl Network for Fixture {
    type Store = DynamoBackend;

    /// A client waits for an answer for 2 s.
    const TOO_LATE: Duration = Duration::from_secs(3);

    fn recognizes_a_repeated_release(&self) -> bool {
        true
    }

    fn proxies(&self) -> &[Proxy] {
        std::slice::from_ref(&self.proxy)
    }

    fn through(&self) -> &DynamoBackend {
        &self.through
    }

    fn direct(&self) -> &DynamoBackend {
        &self.direct
    }

    fn another(&self) -> DynamoBackend {
        client(&self.table, &self.proxy)
    }

    async fn holder_id(&self) -> String {
        self.direct.inspect(&name(JOB)).await.unwrap().expect("it is held").version.unwrap()
    }

    fn requests_run(&self) -> Vec<u64> {
        vec![self.counter.answered() as u64]
    }
}

on_each_network!(Fixture [native] parts [
    a_part_whose_reply_was_lost_is_found_to_be_ours
    a_part_that_arrives_after_its_release_is_refused
    a_duplicate_after_a_release_adds_no_part
    a_duplicate_after_a_break_adds_no_part
    a_release_with_a_lost_reply_ends_one_part
    a_renewal_with_a_lost_reply_has_renewed
    a_mark_that_arrives_late_is_not_set
]);
