//! `onelock init` and a command under a lock, on PostgreSQL.

use test_support::postgres::PostgresServer;

use super::fixture::{code, onelock, output, stdout};

#[test]
fn init_creates_a_postgres_table_for_locks() {
    let server = PostgresServer::start();
    let url = format!("{}?ttl=20s", server.url());
    for mut command in [onelock(["init", "--check", "--url", &url]), onelock(["run", "--url", &url, "x", "true"])] {
        let missing = output(&mut command);
        assert_eq!(missing.status.code(), Some(73), "{missing:?}");
        assert!(String::from_utf8(missing.stderr).unwrap().contains("onelock init"));
    }
    let ready = "the table is ready for locks\n";
    assert_eq!(stdout(&mut onelock(["init", "--url", &url])), format!("the table was created\n{ready}"));
    assert_eq!(stdout(&mut onelock(["init", "--url", &url])), format!("the table already exists\n{ready}"));
    assert_eq!(stdout(&mut onelock(["run", "--url", &url, "x", "-c", "echo $ONELOCK_NAME"])), "x\n");
    assert_eq!(code(&mut onelock(["status", "--url", &url, "x"])), 1, "the lock must be free after the run");
    assert_eq!(code(&mut onelock(["init", "--url", &url, "--keep-idle"])), 64);
    let other = format!("{}?table=other", server.url());
    server.sql("create table other (name text primary key)");
    let unsuitable = output(&mut onelock(["init", "--url", &other]));
    assert_eq!(unsuitable.status.code(), Some(73), "{unsuitable:?}");
    assert!(String::from_utf8(unsuitable.stderr).unwrap().contains("no column name bytea"));
}

#[test]
fn doctor_finds_a_postgres_server_fit() {
    let server = PostgresServer::start();
    let url = format!("{}?ttl=2s", server.url());
    assert_eq!(code(&mut onelock(["doctor", "--url", &url])), 73, "there is no table");
    stdout(&mut onelock(["init", "--url", &url]));
    let report = stdout(&mut onelock(["doctor", "--url", &url]));
    assert!(report.contains("wake-ups: notifications arrive") && report.ends_with("fit for locks\n"), "{report}");
}

#[test]
fn sweep_deletes_idle_rows_and_lists_their_names() {
    let server = PostgresServer::start();
    let url = format!("{}?ttl=20s", server.url());
    stdout(&mut onelock(["init", "--url", &url]));
    assert_eq!(code(&mut onelock(["run", "--url", &url, "old job", "true"])), 0);
    server.sql("update onelock set expires_at = expires_at - interval '31 days'");
    assert_eq!(code(&mut onelock(["run", "--url", &url, "recent", "true"])), 0);
    assert_eq!(code(&mut onelock(["sweep", "--idle", "1h", &url])), 78);
    for args in [["--dry-run", &url], ["--idle=30d", &url]] {
        assert_eq!(stdout(onelock(["sweep"]).args(args)), "old job\n");
    }
    assert_eq!(stdout(&mut onelock(["sweep", &url])), "");
    assert_eq!(server.sql("select count(*) from onelock"), "1");
}
