//! Requests and replies about ShedLock's rows that are lost, late or cut off.

use std::time::Duration;

use lock_core::backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Release, Renewal};
use lock_postgres::{PostgresBackend, Schema};
use test_support::{
    Direction::{self, Replies, Requests},
    Proxy,
    postgres::PostgresServer,
    requests::again,
    until,
};

use crate::{
    fixture::{JOB, LONG, at, backend, count_statements, granted, refused, request, settled, statements},
    shedlock::{self, ShedLock},
};

/// A client behind a proxy, and a client with a direct connection.
struct Rows {
    server: PostgresServer,
    proxy: Proxy,
    through: PostgresBackend,
    direct: PostgresBackend,
}

impl Rows {
    async fn new() -> Self {
        let server = shedlock::server().await;
        count_statements(&server, "shedlock");
        let proxy = Proxy::start(server.addr()).await;
        let through = at(proxy.addr()).schema(Schema::ShedLock).timeout(Duration::from_millis(500));
        let rows = Self { through: backend(through), direct: shedlock::client(&server), proxy, server };
        // Connects, and looks at the columns of the table, which the first acquisition does.
        let (lease, _) = granted(&rows.through, &request("other", LONG)).await;
        assert_eq!(rows.through.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        rows
    }

    fn java(&self) -> ShedLock<'_> {
        ShedLock { server: &self.server, locked_by: "host-1" }
    }

    async fn owned_by(&self, request: &AcquireRequest) {
        let by = self.server.sql("select left(locked_by, 32) from shedlock where name = 'job'");
        assert_eq!(by, request.id.to_string());
        refused(&self.direct, &self::request(JOB, LONG)).await;
        assert!(!self.java().lock(JOB, 600));
    }

    /// Asks while the requests or the replies are lost.
    async fn lost<T>(&self, direction: Direction, ask: impl Future<Output = Result<T, lock_core::Error>>) {
        self.proxy.lose(direction);
        assert!(ask.await.err().expect("there is no answer").is_ambiguous());
        self.proxy.heal();
    }
}

#[tokio::test]
// verifies: lost-reply, foreign-client
async fn a_shedlock_acquire_with_a_lost_reply_is_ours() {
    let rows = Rows::new().await;
    for (direction, is_ours) in [(Replies, true), (Requests, false)] {
        let request = request(JOB, LONG);
        rows.lost(direction, rows.through.acquire(&request)).await;
        let answer = again(async || rows.through.acquire(&request).await).await;
        let AcquireOutcome::Granted(grant) = answer else { panic!("its own row looks contended") };
        assert_eq!(grant.already_ours, is_ours);
        rows.owned_by(&request).await;
        assert_eq!(rows.direct.release(&request.lease(None), Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: lost-reply, foreign-client
async fn a_shedlock_renewal_with_a_lost_reply_has_renewed() {
    let rows = Rows::new().await;
    let request = request(JOB, LONG);
    let (lease, _) = granted(&rows.through, &request).await;
    let longer = lease.clone().with_ttl(LONG * 2);
    rows.lost(Replies, rows.through.renew(&longer)).await;
    let left = rows.direct.inspect(&lease.name).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > LONG + LONG / 2, "{left:?}");
    assert_eq!(again(async || rows.through.renew(&longer).await).await, Renewal::Renewed);
    rows.owned_by(&request).await;
}

#[tokio::test]
// verifies: lost-reply, lost-request, foreign-client
async fn a_shedlock_release_with_a_lost_reply_spares_shedlock() {
    let rows = Rows::new().await;
    let request = request(JOB, LONG);
    let (lease, _) = granted(&rows.through, &request).await;
    rows.lost(Requests, rows.through.release(&lease, Duration::ZERO)).await;
    rows.owned_by(&request).await;
    // Connects anew, because the request is lost that asked for the reply.
    assert!(again(async || rows.through.inspect(&lease.name).await).await.is_some());
    rows.lost(Replies, rows.through.release(&lease, Duration::ZERO)).await;
    assert!(rows.java().lock(JOB, 600), "the release took effect");
    let answer = again(async || rows.through.release(&lease, Duration::ZERO).await).await;
    assert!(matches!(answer, Release::NotHeld(Some(_))), "{answer:?}");
    assert!(rows.java().extend(JOB, 600) && rows.java().unlock(JOB), "the lock of ShedLock is as it was");
}

#[tokio::test]
// verifies: late-request, foreign-client
async fn a_duplicate_shedlock_acquire_after_its_release_is_refused() {
    let rows = Rows::new().await;
    let request = request(JOB, LONG);
    rows.proxy.hold(Requests);
    assert!(rows.through.acquire(&request).await.unwrap_err().is_ambiguous());
    // The retry is faster, by another connection.
    let (lease, _) = granted(&rows.direct, &request).await;
    assert_eq!(rows.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let before = statements(&rows.server);
    rows.proxy.heal();
    until("the late acquire", async || statements(&rows.server) > before).await;
    settled(&rows.server).await;
    assert!(rows.java().lock(JOB, 600), "the late acquire was granted");
}

#[tokio::test]
// verifies: foreign-client
async fn cut_connections_leave_shedlock_rows_to_the_right_owner() {
    let rows = Rows::new().await;
    for direction in [Requests, Replies] {
        let request = request(JOB, LONG);
        let lease = request.lease(None);
        rows.proxy.hold(direction);
        let before = rows.proxy.bytes(direction);
        let cut = async {
            until("the bytes to cut", async || rows.proxy.bytes(direction) > before).await;
            rows.proxy.cut();
            rows.proxy.heal();
        };
        let (answer, ()) = tokio::join!(rows.through.acquire(&request), cut);
        assert!(answer.unwrap_err().is_ambiguous());
        settled(&rows.server).await;
        let answer = again(async || rows.through.acquire(&request).await).await;
        let AcquireOutcome::Granted(grant) = answer else { panic!("{answer:?}") };
        assert_eq!(grant.already_ours, direction == Replies);
        rows.owned_by(&request).await;
        assert_eq!(again(async || rows.through.renew(&lease).await).await, Renewal::Renewed);
        assert_eq!(rows.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}
