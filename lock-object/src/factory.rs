//! Parses config strings for object stores.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    ConfigString, Error,
    backend::Backend,
    config::{BackendFactory, StoreConfig},
};

use crate::{ObjectBackend, ObjectConfig, TflockBackend, keys::Keys};

/// Opens stores by config strings such as `s3://bucket/prefix`. `docs/object-stores.md` describes
/// their options.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectFactory;

#[async_trait]
impl BackendFactory for ObjectFactory {
    fn schemes(&self) -> &[&str] {
        &["s3", "gs", "az"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let config = ObjectConfig::take(config)?;
        if config.is_tflock {
            return Ok(Arc::new(TflockBackend::new(config)?));
        }
        Ok(Arc::new(ObjectBackend::new(config)?))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        ObjectConfig::take(config).map(drop)
    }
}

impl ObjectConfig {
    /// Parses a config string, such as `s3://bucket/locks?region=eu-west-1`,
    /// `gs://bucket/locks` or `az://account/container/locks`.
    ///
    /// Opens no file and no connection.
    ///
    /// # Errors
    /// Of kind [`Config`](lock_core::ErrorKind::Config), with the mistake and how to fix it.
    pub fn from_url(text: &str) -> Result<Self, Error> {
        Self::take(&mut StoreConfig::from(ConfigString::parse(text)?))
    }

    fn take(store: &mut StoreConfig) -> Result<Self, Error> {
        let mut config = place(store)?;
        config.endpoint = store.take_string("endpoint").map(|url| url.trim_end_matches('/').to_owned());
        config.anonymous = store.take_bool("anonymous")?.unwrap_or(false);
        config.skew = store.take_duration("skew")?.unwrap_or(config.skew);
        config.probe = store.take_choice("probe", &[("on", true), ("off", false)])?.unwrap_or(true);
        config.poll.0 = store.take_duration("poll_min")?.unwrap_or(config.poll.0);
        config.poll.1 = store.take_duration("poll_max")?.unwrap_or(config.poll.1.max(config.poll.0));
        config.is_tflock = store.take_choice("schema", &[("native", false), ("tflock", true)])?.unwrap_or(false);
        config.take_credentials(store)?;
        store.finish()?;
        let checked = config.check().and_then(|()| Keys::new(&config.prefix).map(drop));
        checked.map_err(|problem| store.error(problem))?;
        Ok(config)
    }

    fn take_credentials(&mut self, store: &mut StoreConfig) -> Result<(), Error> {
        match store.scheme() {
            "s3" => {
                self.region = store.take_string("region");
                let key = store.take_secret("access_key_id");
                let secret = store.take_secret("secret_access_key");
                let session = store.take_secret("session_token");
                self.access_key = match (key, secret) {
                    (Some(key), Some(secret)) => Some((key, secret, session)),
                    (None, None) if session.is_none() => None,
                    _ => {
                        return Err(store.error(
                            "access_key_id and secret_access_key go together; set both, or leave both to the AWS \
                             environment",
                        ));
                    }
                };
            }
            "gs" => self.service_account = store.take_string("service_account").map(Into::into),
            _ => self.account_key = store.take_secret("account_access_key"),
        }
        Ok(())
    }
}

/// Takes bucket and prefix, or account, container and prefix.
fn place(store: &mut StoreConfig) -> Result<ObjectConfig, Error> {
    let is_azure = store.scheme() == "az";
    let host = store.take_host(if is_azure { "ACCOUNT" } else { "BUCKET" })?;
    if host.port.is_some() {
        return Err(store.error("a bucket has no port; give the server as endpoint=http://HOST:PORT"));
    }
    let path = store.take_path();
    let path = path.trim_matches('/');
    if is_azure {
        let (container, prefix) = path.split_once('/').unwrap_or((path, ""));
        if container.is_empty() {
            return Err(store.error("the container is missing; write az://ACCOUNT/CONTAINER"));
        }
        return Ok(ObjectConfig::azure(host.name, container).prefix(prefix));
    }
    let new = if store.scheme() == "s3" { ObjectConfig::s3 } else { ObjectConfig::gcs };
    Ok(new(host.name).prefix(path))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use test_support::printed_settings::{are_all, stay_hidden, survive};

    use super::*;

    #[test]
    fn config_strings_match_the_builder() {
        let s3 = || ObjectConfig::s3("b.c-1");
        let secs = Duration::from_secs;
        for (text, expected) in [
            ("s3://b.c-1", s3()),
            ("s3://b.c-1/app/locks/", s3().prefix("app/locks")),
            ("s3://b.c-1?region=eu-west-1&skew=500ms", s3().region("eu-west-1").skew(Duration::from_millis(500))),
            (
                "s3://b.c-1?endpoint=http://localhost:9000/&anonymous=true",
                s3().endpoint("http://localhost:9000").anonymous(true),
            ),
            ("s3://b.c-1?probe=off", s3().probe(false)),
            ("s3://b.c-1?poll_min=10s", s3().poll(secs(10), secs(10))),
            ("s3://b.c-1?poll_min=2s&poll_max=9s", s3().poll(secs(2), secs(9))),
            (
                "s3://b.c-1?access_key_id=a&secret_access_key=b&session_token=c",
                s3().access_key("a", "b", Some("c".into())),
            ),
            ("s3://b.c-1/p?schema=tflock", s3().prefix("p").tflock()),
            ("gs://b/p", ObjectConfig::gcs("b").prefix("p")),
            ("gs://b?service_account=/k.json", ObjectConfig::gcs("b").service_account("/k.json")),
            ("az://acc/box", ObjectConfig::azure("acc", "box")),
            ("az://acc/box/p/q?account_access_key=k", ObjectConfig::azure("acc", "box").prefix("p/q").account_key("k")),
        ] {
            assert_eq!(ObjectConfig::from_url(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn printed_settings_lead_to_the_same_settings() {
        let parse = ObjectConfig::from_url;
        let usual = ["anonymous=true", "skew=1500ms", "poll_min=2s", "poll_max=1m", "poll_min=7s"];
        let endpoint = ["endpoint=http://h:9000/a%20b"];
        let key = ["access_key_id=hunter1&secret_access_key=hunter2&session_token=hunter3"];
        // The defaults, and the only values of these stores.
        let fixed = "probe=on&schema=native";
        for (url, more, hidden) in [
            ("s3://b.c-1", &["region=eu-west-1", "probe=off", "schema=tflock"][..], &key[..]),
            ("s3://b/a%20b/c", &["region=eu-west-1", "probe=off", "schema=tflock"], &key),
            ("gs://b/p", &["service_account=/a%20b"], &[fixed]),
            ("az://acc/box/p/q", &[], &["account_access_key=hunter2", fixed]),
        ] {
            survive(parse, url, &[&usual[..], &endpoint, more].concat());
            stay_hidden(parse, url, hidden);
            are_all(parse, url, &[&usual, &endpoint, more, hidden]);
        }
    }

    #[test]
    fn config_string_errors_name_the_problem() {
        for (text, problem) in [
            ("s3:", "BUCKET is missing"),
            ("s3:///x", "BUCKET is missing"),
            ("s3://b:9000", "endpoint=http://HOST:PORT"),
            ("s3://b?regoin=x", "did you mean \"region\"?"),
            ("gs://b?region=x", "there is no option \"region\""),
            ("s3://b/a//b", "the prefix is not valid"),
            ("s3://b?probe=off&endpoint=http://h", "Amazon's own S3 only"),
            ("gs://b?probe=off", "Amazon's own S3 only"),
            ("gs://b?schema=tflock", "is for S3 only"),
            ("s3://b?schema=tfloc", "did you mean \"tflock\"?"),
            ("s3://b?endpoint=h:9000", "must begin with https://"),
            ("s3://b?poll_min=5s&poll_max=1s", "at most poll_max"),
            ("s3://b?secret_access_key=hunter2", "go together"),
            ("s3://u:hunter2@b", "takes no user and password"),
            ("az://acc", "az://ACCOUNT/CONTAINER"),
        ] {
            let message = ObjectConfig::from_url(text).unwrap_err().to_string();
            assert!(message.contains(problem) && !message.contains("hunter2"), "{text}: {message}");
        }
    }

    #[tokio::test]
    async fn a_ttl_below_ten_seconds_is_refused() {
        let registry = lock_core::Registry::new().with(ObjectFactory);
        for url in ["s3://b?ttl=9s", "gs://b?ttl=9s&anonymous=true", "az://a/c?ttl=9s&anonymous=true"] {
            let message = registry.open(url).await.unwrap_err().to_string();
            assert!(message.contains("ttl is 9s, but must be at least 10s"), "{message}");
        }
        registry.open("s3://b?ttl=10s").await.unwrap();
    }

    #[test]
    fn secrets_are_never_shown() {
        let text = "s3://b/p?region=r&access_key_id=hunter1&secret_access_key=hunter2&session_token=hunter3";
        let config = ObjectConfig::from_url(text).unwrap();
        assert!(!format!("{config:?} {config} {:?}", ObjectBackend::new(config.clone()).unwrap()).contains("hunter"));
        assert_eq!(config.to_string(), "s3://b/p?region=r");
        let azure = ObjectConfig::from_url("az://a/c?account_access_key=aHVudGVyMg==").unwrap();
        assert!(!format!("{azure:?} {azure} {:?}", ObjectBackend::new(azure.clone()).unwrap()).contains("aHVu"));
    }
}
