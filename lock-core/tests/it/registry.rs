//! Opening stores from config strings.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Capability, ConfigString, Error, ErrorKind, Locker, Mode, Operation, Registry, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Finding, Lease, Release, Renewal, StoreTimings},
    config::{BackendFactory, StoreConfig},
    faults::Faulty,
    memory::{MemoryBackend, MemoryFactory},
};

/// A store without a ttl, like files.
#[derive(Debug)]
struct NoTtl {
    shown: String,
    inner: MemoryBackend,
}

#[async_trait]
impl Backend for NoTtl {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_loss_signal(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.inner.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.inner.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.inner.release(lease, hold_for).await
    }

    async fn diagnose(&self) -> Vec<Finding> {
        vec![Finding::warning("disk", "nearly full")]
    }
}

#[derive(Debug)]
struct Files;

#[async_trait]
impl BackendFactory for Files {
    fn schemes(&self) -> &[&str] {
        &["file", "efs"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let directory = config.take_directory()?;
        let _ = config.take_u64("mode", 0..=777)?;
        config.finish()?;
        if directory.ends_with("missing") {
            return Err(Error::new(ErrorKind::StoreNotReady, "there is no such directory; create it"));
        }
        Ok(Arc::new(NoTtl { shown: config.redacted().to_owned(), inner: MemoryBackend::new() }))
    }
}

/// Takes only the user, and never calls `finish`.
#[derive(Debug)]
struct Careless;

#[async_trait]
impl BackendFactory for Careless {
    fn schemes(&self) -> &[&str] {
        &["careless"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let _ = config.take_user();
        Ok(Arc::new(MemoryBackend::new()))
    }
}

fn registry() -> Registry {
    Registry::new()
        .with(MemoryFactory::default())
        .with(Files)
        .with(Careless)
        .known_but_absent("redis", "build with the cargo feature \"redis\"")
        .known_but_absent("memory", "never shown, because the scheme is available")
}

async fn refusal(text: &str) -> Error {
    registry().open(text).await.expect_err(text)
}

#[tokio::test]
async fn the_same_config_string_opens_the_same_locks() {
    let registry = registry();
    let one = registry.open("memory:?prefix=a/&owner=me").await.unwrap();
    let other = registry.open(ConfigString::parse("memory:").unwrap()).await.unwrap();
    let guard = one.acquire("x").await.unwrap();
    let TryAcquire::Contended(holder) = other.try_acquire("a/x").await.unwrap() else {
        panic!("two clients hold the same lock")
    };
    assert_eq!(holder.owner.as_deref(), Some("me"));
    let _ = guard.release().await.unwrap();
}

#[tokio::test]
async fn config_errors_name_the_mistake_and_the_fix() {
    for (text, message) in [
        (
            "memroy:",
            "open on memroy:: there is no scheme \"memroy\"; did you mean \"memory\"? Available: careless, efs, \
             file, memory",
        ),
        (
            "rediss://h",
            "open on rediss://h: there is no scheme \"rediss\"; did you mean \"redis\"? Available: careless, efs, \
             file, memory",
        ),
        (
            "postgres://u:hunter2@h/db",
            "open on postgres://u:***@h/db: there is no scheme \"postgres\". Available: careless, efs, file, memory",
        ),
        (
            "redis://u:hunter2@h",
            "open on redis://u:***@h: redis is not part of this build; build with the cargo feature \"redis\"",
        ),
        (
            "memory:?tll=3s",
            "open on memory:?tll=3s: there is no option \"tll\"; did you mean \"ttl\"? Known: fair, grace, \
             hand_over, margin, max_hold, min_hold, \
             owner, prefix, renew, require, spread, ttl",
        ),
        (
            "memory:?pasword=hunter2",
            "open on memory:?pasword=***: there is no option \"pasword\". Known: fair, grace, hand_over, margin, \
             max_hold, min_hold, owner, prefix, renew, require, spread, ttl",
        ),
        ("memory:?ttl=30", "open on memory:?ttl=30: ttl=30 has no unit; write 30s for seconds, or use ms, m, h or d"),
        ("memory:?ttl=10s&margin=10s", "open on memory:: margin (10s) must be shorter than ttl (10s)"),
        ("memory://h", "open on memory://h: memory takes no host; leave \"h\" out"),
        ("memory:x", "open on memory:x: memory takes no path; leave it out"),
        ("memory://u:p@h", "open on memory://u:***@h: memory takes no user and password; leave them out"),
        ("memory://:p@h", "open on memory://:***@h: memory takes no user and password; leave them out"),
        ("careless://u@h", "open on careless://***@h: careless takes no host; leave \"h\" out"),
        (
            "file:///x?ttl=3s",
            "open on file:///x?ttl=3s: ttl cannot be set on this store: a lock lasts until it is released or its \
             holder dies; \
             leave ttl out",
        ),
        (
            "file:///x?hand_over=4",
            "open on file:///x?hand_over=4: hand_over cannot be set on this store: it reserves no fencing tokens for \
             guards that acquire the lock without a request; leave hand_over out",
        ),
        (
            "memory:?hand_over=1001",
            "open on memory:?hand_over=1001: hand_over=1001 is not a whole number from 0 to 1000",
        ),
        (
            "file:///x?require=loss-signal,fencing",
            "open on file:///x?require=loss-signal,fencing: this store lacks the required capability \"fencing\"; it \
             has: loss-signal",
        ),
        (
            "file://var/x",
            "open on file://var/x: file takes no host, but \"var\" is in its place; write file:///var/x for an \
             absolute directory, file:var/x for a relative one",
        ),
        ("efs:", "open on efs:: the directory is missing; write efs:///var/lib/app/locks"),
        ("file:~/x", "open on file:~/x: \"~\" is not expanded here; write the directory in full"),
        ("file:x?mode=7770", "open on file:x?mode=7770: mode=7770 is not a whole number from 0 to 777"),
        ("file:missing", "open on file:missing: there is no such directory; create it"),
    ] {
        assert_eq!(refusal(text).await.to_string(), message);
    }
}

#[tokio::test]
async fn findings_of_a_store_pass_through_every_wrapper() {
    let found = vec![Finding::warning("disk", "nearly full")];
    assert_eq!(registry().open("file:x").await.unwrap().admin().diagnose().await, found);
    let wrapped = Faulty::new(NoTtl { shown: "file:x".into(), inner: MemoryBackend::new() });
    assert_eq!(Locker::new(wrapped).unwrap().admin().diagnose().await, found);
}

#[tokio::test]
// verifies: P11
async fn a_missing_required_capability_is_an_error() {
    let store = NoTtl { shown: "file:/locks".to_owned(), inner: MemoryBackend::new() };
    let builder = Locker::builder(Arc::new(store));
    let error = builder.require(Capability::LossSignal).require(Capability::Shared).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"shared\"") && error.to_string().contains("loss-signal"), "{error}");
}

#[tokio::test]
// verifies: P12
async fn an_undeclared_mode_is_an_error_without_a_request() {
    let store = Arc::new(NoTtl { shown: "file:/locks".to_owned(), inner: MemoryBackend::new() });
    let network = Faulty::around(store);
    let locker = Locker::builder(Arc::new(network.clone())).build().unwrap();
    for mode in [Mode::Shared, Mode::Permit { of: NonZeroU16::new(4).unwrap() }] {
        let error = locker.lock("report").mode(mode).try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&mode.to_string()) && error.to_string().contains("file:/locks"), "{error}");
        let error = Locker::builder(Arc::new(network.clone())).mode(mode).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    assert_eq!(network.sent(Operation::Acquire), 0);
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations_cause_no_panic() {
    const LONGEST: &str = "36500d";
    for text in ["memory:?min_hold=", "memory:?max_hold=", "memory:?renew=", "file:x?renew=", "file:x?grace="] {
        let Ok(locker) = registry().open(&format!("{text}{LONGEST}")).await else { continue };
        let guard = locker.acquire("x").await.unwrap();
        guard.check().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = guard.release().await.unwrap();
    }
    assert!(refusal(&format!("memory:?min_hold={LONGEST}")).await.to_string().contains("must be at most 366 days"));
    assert!(refusal("memory:?max_hold=18446744073709551615s").await.to_string().contains("longer than 36500 days"));
}

#[tokio::test]
async fn error_kinds_separate_bad_settings_from_missing_features() {
    for (text, kind) in [
        ("memroy:", ErrorKind::Config),
        ("", ErrorKind::Config),
        ("file:x?ttl=3s", ErrorKind::Config),
        ("redis://h", ErrorKind::Unsupported),
        ("file:x?require=fencing", ErrorKind::Unsupported),
        ("file:missing", ErrorKind::StoreNotReady),
    ] {
        assert_eq!(refusal(text).await.kind(), kind, "{text}");
    }
}

#[tokio::test]
async fn the_last_factory_added_opens_the_scheme() {
    let store = MemoryBackend::new();
    let registry = registry().with(MemoryFactory::from(store.clone()));
    assert_eq!(registry.schemes(), ["careless", "efs", "file", "memory"]);
    let _guard = registry.open("memory:").await.unwrap().acquire("x").await.unwrap();
    assert!(Locker::new(store).unwrap().admin().inspect("x").await.unwrap().is_some());
    let message = Registry::new().open("memory:").await.unwrap_err().to_string();
    assert_eq!(message, "open on memory:: there is no scheme \"memory\". Available: none");
}

#[test]
fn settings_are_parsed_by_type_and_errors_named() {
    let open = |text: &str| StoreConfig::from(ConfigString::parse(text).unwrap());
    let mut config = open("x://u:p@h:1/db?on=true&n=7&mode=fast&wait=2s&token=t");
    assert_eq!(config.take_user().as_deref(), Some("u"));
    assert_eq!(config.take_password().unwrap().expose(), "p");
    assert_eq!(config.take_host("HOST").unwrap().to_string(), "h:1");
    assert_eq!(config.take_path(), "/db");
    assert_eq!(config.take_bool("on").unwrap(), Some(true));
    assert_eq!(config.take_u64("n", 1..=9).unwrap(), Some(7));
    assert_eq!(config.take_choice("mode", &[("fast", 'f'), ("safe", 's')]).unwrap(), Some('f'));
    assert_eq!(config.take_duration("wait").unwrap(), Some(Duration::from_secs(2)));
    assert_eq!(config.take_secret("token").unwrap().expose(), "t");
    assert_eq!(config.take_string("absent"), None);
    config.finish().unwrap();

    let mut config = open("x://a,b?on=yes&n=10&mode=safer&password_length=hunter2");
    for (error, message) in [
        (config.take_host("TABLE").unwrap_err(), "there are 2 hosts, but x takes one"),
        (config.take_bool("on").unwrap_err(), "on=yes must be one of true, false"),
        (config.take_u64("n", 1..=9).unwrap_err(), "n=10 is not a whole number from 1 to 9"),
        (
            config.take_choice("mode", &[("fast", 'f'), ("safe", 's')]).unwrap_err(),
            "mode=safer must be one of fast, safe; did you mean \"safe\"?",
        ),
        (
            config.take_u64("password_length", 1..=9).unwrap_err(),
            "password_length=*** is not a whole number from 1 to 9",
        ),
        (open("x:").take_host("TABLE").unwrap_err(), "TABLE is missing; write x://TABLE"),
    ] {
        let shown = error.to_string();
        assert!(shown.ends_with(message) && !shown.contains("hunter2"), "{shown}");
    }
}
