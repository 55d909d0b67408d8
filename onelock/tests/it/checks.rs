//! `Registry::check` finds what `open` finds before its first request.

use onelock::{ErrorKind, registry};

/// Wrong config strings of each store, with a part of the message.
const WRONG: &[(&str, &str)] = &[
    ("memory:?tttl=3s", "did you mean \"ttl\"?"),
    ("memory:?ttl=3", "has no unit"),
    ("memory:?require=fencin", "did you mean \"fencing\"?"),
    ("file:", "the directory is missing"),
    ("file:///locks?mode=9", "octal"),
    ("file:///locks?name=plain", "did you mean \"names\"?"),
    ("efs:///locks?allow_local=yes", "must be one of true, false"),
    ("redis://h?timout=1s", "did you mean \"timeout\"?"),
    ("redis+quorum://a,b", "three"),
    ("dynamodb://locks?schema=jaba", "did you mean \"java\"?"),
    ("dynamodb:", "TABLE is missing"),
    ("postgres://h?table=a.b.c", "SCHEMA.TABLE"),
    ("s3://bucket?probe=maybe", "must be one of on, off"),
    ("migrate:?from=file:///a", "to is missing"),
    ("migrate:?from=file:///a&to=redis://h%3Ftimout=1s", "did you mean \"timeout\"?"),
    ("migrate:?from=file:///a&to=memory:&lease=1ms", "must be at least"),
    ("fil:///locks", "did you mean \"file\"?"),
];

#[tokio::test]
async fn a_check_finds_what_opening_finds_before_any_request() {
    for (url, part) in WRONG {
        let error = registry().check(*url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        let opened = registry().open(*url).await.unwrap_err();
        assert_eq!((opened.kind(), opened.to_string()), (error.kind(), error.to_string()));
    }
}

/// The directory, the servers and the secrets do not exist.
#[test]
fn a_check_reads_no_file_and_needs_no_server() {
    for url in [
        "memory:?ttl=3s",
        "file:///nowhere/at/all",
        "efs:///nowhere?names=plain",
        "redis://nowhere.invalid?password_file=/nowhere",
        "redis://nowhere.invalid?password_env=ONELOCK_NO_SUCH_VARIABLE",
        "dynamodb://locks?access_key_id=a&secret_access_key_file=/nowhere",
        "postgres://u@nowhere.invalid/db?password_file=/nowhere",
        "s3://bucket/locks?region=eu-west-1",
        "migrate:?from=file:///nowhere&to=redis://nowhere.invalid",
    ] {
        registry().check(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    }
}
