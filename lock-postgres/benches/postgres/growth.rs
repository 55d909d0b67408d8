//! Measures the table after many renewals.

use std::time::{Duration, Instant};

use lock_core::{
    Mode,
    backend::{Backend, Renewal},
};

use super::{acquire, backend, current_thread, server};

const LOCKS: u32 = 100;
const RENEWALS: u32 = 1_000_000;

const SIZE: &str = "select pg_relation_size('onelock') / 1024 || ' kB, index '
    || pg_relation_size('onelock_pkey') / 1024 || ' kB'";
const ROWS: &str = "select n_tup_upd || ' updates, ' || round(100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1), 2)
    || ' % of them HOT, ' || n_dead_tup || ' dead rows, ' || autovacuum_count || ' runs of autovacuum'
    from pg_stat_user_tables where relname = 'onelock'";

pub(crate) fn run() {
    let server = server(&["autovacuum_naptime=1s"]);
    current_thread().block_on(async {
        let backend = backend(&server);
        let mut leases = Vec::new();
        for n in 0..LOCKS {
            leases.push(acquire(&backend, &format!("job-{n}"), Mode::Exclusive).await);
        }
        println!("\n{LOCKS} locks and {RENEWALS} renewals\nbefore: {}", server.sql(SIZE));
        let start = Instant::now();
        for _ in 0..RENEWALS / LOCKS {
            for renewal in backend.renew_many(&leases).await {
                assert_eq!(renewal.expect("the server answers"), Renewal::Renewed);
            }
        }
        println!("after {:.0} s: {}", start.elapsed().as_secs_f64(), server.sql(SIZE));
        drop(backend);
        // The server counts when the connection ends.
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!("{}", server.sql(ROWS));
    });
}
