//! Rows as ShedLock writes them exclude us, and ours exclude ShedLock.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{
    ErrorKind, LossReason,
    backend::{AcquireOutcome, Admin, Backend, Release, Renewal},
};
use lock_postgres::{PostgresBackend, Schema};
use test_support::{postgres::PostgresServer, until};

use crate::fixture::{LONG, at, backend, granted, name, refused, request};

/// The table, as the documentation of ShedLock creates it.
pub(crate) const CREATE: &str = "CREATE TABLE shedlock(name VARCHAR(64) NOT NULL, lock_until TIMESTAMP NOT NULL,
    locked_at TIMESTAMP NOT NULL, locked_by VARCHAR(255) NOT NULL, PRIMARY KEY (name))";

/// A process of ShedLock, with the SQL of its `PostgresSqlServerTimeStatementsSource`.
pub(crate) struct ShedLock<'a> {
    pub(crate) server: &'a PostgresServer,
    pub(crate) locked_by: &'static str,
}

impl ShedLock<'_> {
    fn changes(&self, sql: &str) -> bool {
        let now = "timezone('utc', CURRENT_TIMESTAMP)";
        let sql = sql.replace(":now", now).replace(":lockedBy", &format!("'{}'", self.locked_by));
        self.server.sql(&format!("with changed as ({sql} returning 1) select count(*) from changed")) == "1"
    }

    /// Inserts, and updates if the row was there. At most for `seconds`.
    pub(crate) fn lock(&self, name: &str, seconds: u32) -> bool {
        let until = format!(":now + interval '{seconds} seconds'");
        self.changes(&format!(
            "INSERT INTO shedlock(name, lock_until, locked_at, locked_by) VALUES('{name}', {until}, :now, :lockedBy) \
             ON CONFLICT (name) DO UPDATE SET lock_until = {until}, locked_at = :now, locked_by = :lockedBy \
             WHERE shedlock.name = '{name}' AND shedlock.lock_until <= :now"
        ))
    }

    pub(crate) fn extend(&self, name: &str, seconds: u32) -> bool {
        self.changes(&format!(
            "UPDATE shedlock SET lock_until = :now + interval '{seconds} seconds' WHERE name = '{name}' AND \
             locked_by = :lockedBy AND lock_until > :now"
        ))
    }

    pub(crate) fn unlock(&self, name: &str) -> bool {
        self.changes(&format!("UPDATE shedlock SET lock_until = :now WHERE name = '{name}' AND locked_by = :lockedBy"))
    }
}

pub(crate) async fn server() -> PostgresServer {
    let server = PostgresServer::start();
    // Times without a zone must not depend on the zone of a session.
    server.sql("alter role onelock set timezone = 'Asia/Tokyo'");
    assert!(client(&server).init().await.unwrap());
    server
}

pub(crate) fn client(server: &PostgresServer) -> PostgresBackend {
    backend(at(server.addr()).schema(Schema::ShedLock))
}

#[tokio::test]
// verifies: foreign-client
async fn shedlock_and_onelock_exclude_each_other() {
    let server = server().await;
    let (java, ours) = (ShedLock { server: &server, locked_by: "host-1" }, client(&server));
    assert!(java.lock("job", 600));
    let holder = refused(&ours, &request("job", LONG)).await;
    assert_eq!((holder.owner.as_deref(), holder.foreign.as_deref()), (Some("host-1"), Some("a ShedLock client")));
    assert!(holder.expires_in.unwrap() > LONG - Duration::from_secs(60), "{holder:?}");
    assert!(java.extend("job", 900) && java.unlock("job"));
    let (lease, grant) = granted(&ours, &request("job", LONG)).await;
    assert_eq!((grant.token, grant.crashed), (None, None));
    assert!(!java.lock("job", 600) && !java.extend("job", 600) && !java.unlock("job"));
    assert_eq!(ours.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert!(!java.lock("job", 600));
    assert_eq!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(java.lock("job", 600));
    assert!(matches!(ours.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::TakenBy(_))));
    assert!(matches!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
    assert!(java.unlock("job"), "nothing of ours touched its lock");
}

#[tokio::test]
async fn leases_on_shedlock_rows_expire_and_are_kept() {
    let server = server().await;
    let (java, ours, other) = (ShedLock { server: &server, locked_by: "host-1" }, client(&server), client(&server));
    let short = request("short", Duration::from_millis(100));
    let (lease, _) = granted(&ours, &short).await;
    let mut crashed = None;
    until("the end of the lease", async || match other.acquire(&request("short", LONG)).await.unwrap() {
        AcquireOutcome::Granted(grant) => {
            crashed = grant.crashed;
            true
        }
        AcquireOutcome::Contended(_) => false,
    })
    .await;
    assert_eq!(crashed.unwrap().owner.as_deref(), Some("test"));
    assert!(matches!(ours.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::TakenBy(_))));
    // A minimum hold keeps ShedLock out, and is no lease that could be renewed.
    let (kept, _) = granted(&ours, &request("kept", LONG)).await;
    assert_eq!(ours.release(&kept, LONG).await.unwrap(), Release::Released);
    assert!(!java.lock("kept", 600));
    refused(&other, &request("kept", LONG)).await;
    assert_eq!(ours.renew(&kept).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    assert_eq!(ours.release(&kept, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
}

#[tokio::test]
async fn requests_on_shedlock_rows_are_idempotent() {
    let server = server().await;
    let ours = client(&server);
    let job = request("job", LONG);
    let (lease, _) = granted(&ours, &job).await;
    let (_, again) = granted(&ours, &job).await;
    assert!(again.already_ours);
    assert_eq!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    let late = ours.acquire(&job).await.unwrap_err();
    assert!(late.to_string().contains("after its lease id had been released"), "{late}");
    let listed = ours.list("").await.unwrap().locks;
    assert!(listed.is_empty(), "{listed:?}");
    granted(&ours, &request("jobs/a", LONG)).await;
    granted(&ours, &request("other", LONG)).await;
    let listed = ours.list("jobs/").await.unwrap().locks;
    assert_eq!((listed.len(), listed[0].1.owner.as_deref()), (1, Some("test")));
}

#[tokio::test]
async fn shedlock_rows_refuse_what_they_cannot_keep() {
    let server = server().await;
    let ours = client(&server);
    for long in [&*"x".repeat(65), "a\0b"] {
        let error = ours.acquire(&request(long, LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Config, false), "{error:?}");
    }
    let capabilities = ours.capabilities();
    assert!(!capabilities.fencing && !capabilities.break_lock && !capabilities.wake_up);
    let (lease, _) = granted(&ours, &request("job", LONG)).await;
    assert_eq!(ours.purge(&lease.name).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(ours.break_lock(&name("job"), "1", "x").await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(ours.diagnose().await.iter().all(|finding| finding.level < lock_core::backend::Level::Unfit));
}

#[tokio::test(flavor = "multi_thread")]
// verifies: contention
async fn each_race_on_a_shedlock_row_has_one_winner() {
    let server = server().await;
    let clients: Vec<_> = (0..8).map(|_| client(&server)).collect();
    for round in 0..150 {
        let requests: Vec<_> = clients.iter().map(|_| request("race", LONG)).collect();
        let attempts = join_all(clients.iter().zip(&requests).map(|(client, request)| client.acquire(request))).await;
        let mut winners = Vec::new();
        for ((attempt, request), client) in attempts.into_iter().zip(&requests).zip(&clients) {
            if let AcquireOutcome::Granted(_) = attempt.unwrap() {
                winners.push((client, request.lease(None)));
            }
        }
        let [(client, lease)] = &winners[..] else { panic!("{} winners in round {round}", winners.len()) };
        assert_eq!(client.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: foreign-client
async fn a_table_whose_times_are_rounded_or_zoned_is_refused() {
    let server = PostgresServer::start();
    for kind in ["timestamp(0)", "timestamp(2)", "timestamptz", "timestamptz(3)"] {
        server.sql(&CREATE.replace("lock_until TIMESTAMP", &format!("lock_until {kind}")));
        let ours = client(&server);
        let error = ours.acquire(&request("job", LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StoreNotReady, false), "{kind}: {error:?}");
        assert!(error.to_string().contains("lock_until timestamp without time zone, with milliseconds"), "{error}");
        assert_eq!(ours.check().await.unwrap_err().kind(), ErrorKind::StoreNotReady);
        server.sql("drop table shedlock");
    }
    // A table that is created or repaired later is used.
    let ours = client(&server);
    assert_eq!(ours.acquire(&request("job", LONG)).await.unwrap_err().kind(), ErrorKind::StoreNotReady);
    server.sql(&CREATE.replace("lock_until TIMESTAMP", "lock_until timestamp(0)"));
    assert!(ours.acquire(&request("job", LONG)).await.is_err());
    server.sql("alter table shedlock alter lock_until type timestamp(3)");
    granted(&ours, &request("job", LONG)).await;
}
