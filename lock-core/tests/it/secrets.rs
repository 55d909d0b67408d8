//! Secrets from files and environment variables, and the errors when they are missing.

use std::{fs, sync::Arc};

use async_trait::async_trait;
use lock_core::{
    ConfigString, Error, ErrorKind, Registry,
    backend::Backend,
    config::{BackendFactory, Secret, StoreConfig},
    memory::MemoryBackend,
};

/// Accepts one password and one key.
#[derive(Debug)]
struct Guarded;

#[async_trait]
impl BackendFactory for Guarded {
    fn schemes(&self) -> &[&str] {
        &["guarded"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let _ = (config.take_host("HOST")?, config.take_user());
        let given = [config.take_password(), config.take_secret("session_token")];
        config.finish()?;
        let right = [Some(Secret::new("hunter2")), Some(Secret::new("hunter3"))];
        if given == right { Ok(Arc::new(MemoryBackend::new())) } else { Err(config.error("wrong secrets")) }
    }
}

fn file(content: &str) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    file.into_temp_path()
}

#[test]
fn the_password_of_a_socket_becomes_an_option() {
    let password = file("hunter2\n");
    let text = format!("guarded+unix:///run/s.sock?password_file={}", password.display());
    let fetched = ConfigString::parse(&text).unwrap().fetch_secrets().unwrap();
    assert_eq!(fetched, ConfigString::parse("guarded+unix:///run/s.sock?password=hunter2").unwrap());
    assert!(!format!("{fetched} {fetched:?}").contains("hunter2"));
}

#[tokio::test]
async fn secrets_come_from_files_and_from_the_environment() {
    let registry = Registry::new().with(Guarded);
    // Every process has `PATH`. Its value is not secret, and is the wrong password here.
    let (password, token) = (file("hunter2\n"), file("hunter3"));
    for line_end in ["", "\n", "\r\n"] {
        fs::write(&password, format!("hunter2{line_end}")).unwrap();
        let text = format!("guarded://u@h?password_file={}&session_token_file={}", password.display(), token.display());
        registry.open(&text).await.unwrap();
        assert!(!ConfigString::parse(&text).unwrap().has_secrets());
    }
    let text = format!("guarded://h?password_env=PATH&session_token_file={}", token.display());
    let fetched = ConfigString::parse(&text).unwrap().fetch_secrets().unwrap();
    assert_eq!(
        fetched,
        ConfigString::parse("guarded://h?session_token=hunter3")
            .unwrap()
            .with_password(Secret::new(std::env::var("PATH").unwrap()))
            .unwrap()
    );
    assert!(registry.open(&text).await.unwrap_err().to_string().ends_with("wrong secrets"));
}

#[tokio::test]
async fn errors_about_unreadable_secrets_reveal_no_secret() {
    let registry = Registry::new().with(Guarded);
    let (two_lines, empty, good) = (file("hunter2\nhunter2\n"), file("\n"), file("hunter2"));
    for (options, words) in [
        (
            "password_env=hunter2".into(),
            "password_env: there is no such environment variable; write its name, without \"$\"",
        ),
        ("password_file=/no/such/hunter2".into(), "password_file: this file cannot be read"),
        (format!("password_file={}", two_lines.display()), "control character"),
        (format!("password_file={}", empty.display()), "the password is empty"),
        (format!("session_token_file={}", empty.display()), "option \"session_token\" is empty"),
        (format!("password_file={}&password_env=PATH", good.display()), "the config string already has a password"),
        (format!("session_token=hunter2&session_token_file={}", good.display()), "\"session_token\" is given twice"),
        (format!("secret_thing_file={}", good.display()), "there is no option \"secret_thing\""),
    ] {
        let error = registry.open(format!("guarded://h?{options}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(words), "{options}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    let both = registry.open(format!("guarded://u:hunter2@h?password_file={}", good.display())).await.unwrap_err();
    assert!(
        both.to_string().starts_with("open on guarded://u:***@h: the config string already has a password"),
        "{both}"
    );
}

#[test]
fn references_to_secrets_are_not_secrets_themselves() {
    for (text, has) in [
        ("redis://u:p@h", true),
        ("redis://u@h", true),
        ("redis://u@h?password_file=/x", false),
        ("redis://h?sentinel_password_env=X", false),
        ("redis://h?sentinel_password=X", true),
        ("redis://h", false),
    ] {
        assert_eq!(ConfigString::parse(text).unwrap().has_secrets(), has, "{text}");
    }
}
