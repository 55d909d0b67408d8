//! `onelock init` and a command under a lock, on DynamoDB Local.

use lock_core::backend::LeaseId;
use test_support::dynamodb::DynamoDbLocal;

use super::fixture::{code, onelock, output, stdout};

/// Returns the URL of a table that does not exist yet.
pub(crate) fn url() -> String {
    let endpoint = DynamoDbLocal::shared().endpoint();
    let endpoint = endpoint.replace("//", "%2F%2F");
    format!(
        "dynamodb://onelock-{}?endpoint={endpoint}&region=eu-central-1&access_key_id=test&secret_access_key=test\
         &ttl=20s",
        LeaseId::random()
    )
}

#[test]
fn init_creates_a_table_for_locks() {
    let url = url();
    let missing = output(&mut onelock(["init", "--check", "--url", &url]));
    assert_eq!(missing.status.code(), Some(73), "{missing:?}");
    assert!(String::from_utf8(missing.stdout).unwrap().starts_with("problem: there is no table"));
    let refused = output(&mut onelock(["run", "--url", &url, "x", "true"]));
    assert_eq!(refused.status.code(), Some(73), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("onelock init"));

    assert_eq!(stdout(&mut onelock(["init", "--url", &url])), "the table was created\nthe table is ready for locks\n");
    assert_eq!(
        stdout(&mut onelock(["init", "--url", &url])),
        "the table already exists\nthe table is ready for locks\n"
    );
    let held = stdout(&mut onelock(["run", "--url", &url, "x", "-c", "echo $ONELOCK_NAME"]));
    assert_eq!(held, "x\n");
    assert_eq!(code(&mut onelock(["status", "--url", &url, "x"])), 1, "the lock must be free after the run");
}

#[test]
fn init_refuses_stores_without_a_table() {
    assert_eq!(code(&mut onelock(["init", "--url", "memory:"])), 64);
    assert_eq!(code(&mut onelock(["init", "--url", "dynamodb://t?regoin=x"])), 78);
}
