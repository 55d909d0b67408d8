//! `dlock init` and a command under a lock, on AWS's own DynamoDB Local.

use integration::dynamodb::DynamoDbLocal;
use lock_core::LeaseId;

use crate::support::{code, dlock, output, stdout};

/// A table that does not exist yet.
fn url() -> String {
    let endpoint = DynamoDbLocal::shared().endpoint();
    let endpoint = endpoint.replace("//", "%2F%2F");
    format!(
        "dynamodb://dlock-{}?endpoint={endpoint}&region=eu-central-1&access_key_id=test&secret_access_key=test&ttl=20s",
        LeaseId::random()
    )
}

#[test]
fn init_makes_a_table_on_which_commands_run_under_a_lock() {
    let url = url();
    let missing = output(&mut dlock(["init", "--check", "--url", &url]));
    assert_eq!(missing.status.code(), Some(73), "{missing:?}");
    assert!(String::from_utf8(missing.stdout).unwrap().starts_with("problem: there is no table"));
    let refused = output(&mut dlock(["run", "--url", &url, "x", "true"]));
    assert_eq!(refused.status.code(), Some(73), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("dlock init"));

    assert_eq!(stdout(&mut dlock(["init", "--url", &url])), "the table was created\nlocks work on it\n");
    assert_eq!(stdout(&mut dlock(["init", "--url", &url])), "the table was there\nlocks work on it\n");
    let held = stdout(&mut dlock(["run", "--url", &url, "x", "-c", "echo $DLOCK_NAME"]));
    assert_eq!(held, "x\n");
    assert_eq!(code(&mut dlock(["status", "--url", &url, "x"])), 1, "and it is free again");
}

#[test]
fn other_stores_need_no_table() {
    assert_eq!(code(&mut dlock(["init", "--url", "memory:"])), 64);
    assert_eq!(code(&mut dlock(["init", "--url", "dynamodb://t?regoin=x"])), 78);
}
