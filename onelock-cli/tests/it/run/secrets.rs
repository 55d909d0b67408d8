//! The places of passwords, and that no output shows one.

use std::{fs, process::Output};

use test_support::redis::RedisServer;

use super::fixture::{Locks, code, onelock, output};
#[cfg(feature = "torture")]
use super::fixture::{Running, children};

const PASSWORD: &str = "s3cret";
const WARNING: &str = "onelock: warning: other users can read the secret in --url with ps";

fn server() -> (RedisServer, String) {
    let server = RedisServer::with_args(&["--requirepass", PASSWORD]);
    let url = format!("redis://:{PASSWORD}@{}", server.addr());
    (server, url)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn only_a_secret_in_an_argument_causes_a_warning() {
    let (server, url) = server();
    let dir = tempfile::tempdir().unwrap();
    let [url_file, password_file] = ["url", "password"].map(|name| dir.path().join(name));
    fs::write(&url_file, format!("{url}\n")).unwrap();
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let by_file = format!("redis://{}?password_file={}", server.addr(), password_file.display());
    let by_variable = format!("redis://{}?password_env=TEST_PASSWORD", server.addr());

    let ran = output(&mut onelock(["run", "--url", &url, "x", "true"]));
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(said(&ran).starts_with(WARNING) && !said(&ran).contains(PASSWORD), "{ran:?}");
    let url_file = url_file.to_str().unwrap();
    let quiet = [
        output(&mut onelock(["run", "--url-file", url_file, "x", "true"])),
        output(onelock(["run", "x", "true"]).env("ONELOCK_URL", &url)),
        output(onelock(["run", "x", "true"]).env("ONELOCK_URL_FILE", url_file)),
        output(&mut onelock(["run", "--url", &by_file, "x", "true"])),
        output(onelock(["run", "--url", &by_variable, "x", "true"]).env("TEST_PASSWORD", PASSWORD)),
    ];
    for ran in quiet {
        assert_eq!((ran.status.code(), said(&ran).as_str()), (Some(0), ""));
    }
}

#[test]
fn two_stores_and_a_missing_url_file_are_refused() {
    let locks = Locks::new();
    let both = output(onelock(["run", "x", "true"]).env("ONELOCK_URL", locks.url()).env("ONELOCK_URL_FILE", "/f"));
    assert_eq!(both.status.code(), Some(78), "{both:?}");
    assert!(said(&both).contains("both set"), "{both:?}");
    assert_eq!(
        code(locks.run(["x", "true"]).env("ONELOCK_URL", "memory:").env("ONELOCK_URL_FILE", "/f")),
        0,
        "--url must override both variables"
    );
    assert_eq!(code(&mut onelock(["run", "--url", "memory:", "--url-file", "/f", "x", "true"])), 64);
    let missing = output(&mut onelock(["run", "--url-file", "/no/such/file", "x", "true"]));
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    assert!(said(&missing).contains("cannot read /no/such/file, the file named by --url-file"), "{missing:?}");
}

#[test]
fn no_output_shows_a_secret() {
    let (server, url) = server();
    let wrong_password = format!("redis://ann:{PASSWORD}-not@{}", server.addr());
    let dead = format!("redis://:{PASSWORD}@127.0.0.1:{}", test_support::free_port());
    let misspelt = format!("redis://:{PASSWORD}@h?pasword={PASSWORD}&token={PASSWORD}");
    let broken = format!("redis://u:{PASSWORD}/{PASSWORD}@h:x y");
    let unknown = format!("rediz://u:{PASSWORD}@h");
    let no_secret = |url: &str, args: &[&str]| {
        let (verb, rest) = args.split_first().unwrap();
        let ran = output(onelock([verb, "--url", url]).args(rest));
        assert!(!said(&ran).contains(PASSWORD), "{args:?} with {url}: {ran:?}");
        let ran = output(onelock([*verb]).args(rest).env("ONELOCK_URL", url));
        assert!(!said(&ran).contains(PASSWORD), "{args:?} with {url} in the environment: {ran:?}");
    };
    for url in [&url, &wrong_password, &dead, &misspelt, &broken, &unknown] {
        no_secret(url, &["status", "--json", "x"]);
        no_secret(url, &["doctor"]);
    }
    for args in [
        &["run", "-n", "-v", "x", "true"][..],
        &["run", "-w", "0.1", "x", "--", "no-such-command"],
        &["list"],
        &["break", "--if-version", "1", "x"],
        &["init", "--check"],
        &["doctor", "--json"],
    ] {
        no_secret(&url, args);
        no_secret(&wrong_password, args);
    }
    no_secret(&url, &["torture", "--time", "0", "--processes", "1"]);
    no_secret(&misspelt, &["torture", "--time", "0", "--processes", "1", "--json"]);
}

#[cfg(feature = "torture")]
#[test]
fn no_process_has_a_secret_in_its_arguments() {
    let (_server, url) = server();
    let mut holder = Running::start(onelock(["run", "x", "-c", "echo held; sleep 1000"]).env("ONELOCK_URL", &url));
    holder.expect_line("held");
    let mut torture = Running::start(onelock(["torture", "--time", "2s"]).env("ONELOCK_URL", &url));
    for root in [holder.pid(), torture.pid()] {
        super::fixture::eventually("a child exists", || !children(root).is_empty());
        let mut family = vec![root];
        let mut next = 0;
        while next < family.len() {
            family.extend(children(family[next]));
            next += 1;
        }
        for pid in family {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&arguments).contains(PASSWORD), "{pid}");
        }
    }
    assert!(torture.child.wait().unwrap().success());
}
