//! Measures the cost of holding many locks on PostgreSQL.

use std::{sync::Arc, thread, time::Instant};

use futures_util::future::join_all;
use lock_core::Locker;
use test_support::postgres::PostgresServer;
use tokio_postgres::{Client, Statement, types::Type};

use super::{ACQUIRE, CREATE, backend, calls, connect, counting_server};
use crate::{
    effort::Effort,
    flavor::Flavor,
    held::{BATCH, Holder, LOCKS, Raw, TTL, WINDOW, key},
    table::{Table, figure},
};

/// Who holds the rows of the program without a library.
const ID: &str = "00000000-0000-0000-0000-000000000001";
const RENEW: &str = "update raw set expires_at = clock_timestamp() + interval '15 seconds'
    where name = $1 and id = $2::text::uuid and expires_at > clock_timestamp() returning 1";

pub(crate) fn run(effort: Effort) -> Table {
    let mut holders = Holder::all("postgres", LOCKS, counting_server, PostgresServer::url);
    let clients = Holder::acquire(&mut holders);
    for holder in &holders {
        holder.store.sql("select pg_stat_statements_reset()");
    }
    let started = Instant::now();
    thread::sleep(effort.window(WINDOW));
    let sent: Vec<f64> = holders.iter().map(|holder| calls(&holder.store)).collect();
    let elapsed = started.elapsed().as_secs_f64();
    let columns = ["memory of a lock, KB", "processor of the client, %", "statements a second", "lost"];
    let mut table = Table::new("Held locks on PostgreSQL", &columns);
    for (next, holder) in holders.iter_mut().enumerate() {
        let [share, lost] = holder.end();
        let rest = [figure(share), figure(sent[next] / elapsed), format!("{lost:.0}")];
        table.row(holder.title(), [holder.of_each(clients[next])].into_iter().chain(rest));
    }
    table
}

/// The process that holds the locks.
pub(crate) fn hold(how: &str, url: &str, flavor: Flavor) {
    flavor.runtime().block_on(async {
        let locker = Locker::builder(Arc::new(backend(url))).ttl(TTL).build().expect("defaults");
        crate::held::hold(how, locker, Rows::new(connect(url).await).await).await;
    });
}

/// Rows that a program updates without a library.
struct Rows {
    client: Client,
    acquire: Statement,
    renew: Statement,
    locks: usize,
}

impl Rows {
    async fn new(client: Client) -> Self {
        client.batch_execute(CREATE).await.expect("the server answers");
        let prepare = async |sql| client.prepare_typed(sql, &[Type::BYTEA, Type::TEXT]).await.expect("an answer");
        let (acquire, renew) = (prepare(ACQUIRE).await, prepare(RENEW).await);
        Self { client, acquire, renew, locks: 0 }
    }

    /// Changes each row by a statement, and returns how many did not change.
    async fn change(&self, statement: &Statement) -> usize {
        let mut unchanged = 0;
        for start in (0..self.locks).step_by(BATCH) {
            let each = (start..self.locks.min(start + BATCH)).map(async |lock| {
                let rows = self.client.query(statement, &[&key(lock).as_bytes(), &ID]).await;
                rows.expect("the server answers").len()
            });
            unchanged += join_all(each).await.into_iter().filter(|rows| *rows == 0).count();
        }
        unchanged
    }
}

impl Raw for Rows {
    async fn acquire(&mut self, locks: usize) {
        let rows = "insert into raw select convert_to('held-' || lock, 'UTF8'), null, 'epoch'
            from generate_series(0, $1::bigint - 1) as lock";
        self.client.execute(rows, &[&(locks as i64)]).await.expect("the server answers");
        self.locks = locks;
        assert_eq!(self.change(&self.acquire).await, 0, "they are free");
    }

    async fn renew(&mut self) -> usize {
        self.change(&self.renew).await
    }
}
