//! Parses config strings for Redis.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    ConfigString, Error,
    backend::Backend,
    config::{BackendFactory, Host, StoreConfig},
};

use crate::{Address, Compat, RedisBackend, RedisConfig, Topology};

/// Opens stores by Redis config strings. `docs/redis.md` describes their forms and options.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedisFactory;

const SCHEMES: &[&str] = &[
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "redis+quorum",
    "rediss+quorum",
];

#[async_trait]
impl BackendFactory for RedisFactory {
    fn schemes(&self) -> &[&str] {
        SCHEMES
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(RedisBackend::new(RedisConfig::take(config)?)?))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        RedisConfig::take(config).map(drop)
    }
}

impl RedisConfig {
    /// Parses a config string, such as
    /// `rediss://app:s3cret@cache.internal:6380/0?ca=/etc/redis/ca.pem`.
    ///
    /// Opens no file and no connection.
    ///
    /// # Errors
    /// Of kind [`Config`](lock_core::ErrorKind::Config), with the mistake and how to fix it.
    pub fn from_url(text: &str) -> Result<Self, Error> {
        Self::take(&mut StoreConfig::from(ConfigString::parse(text)?))
    }

    fn take(store: &mut StoreConfig) -> Result<Self, Error> {
        let scheme = store.scheme().to_owned();
        let (plain, kind) = scheme.split_once('+').unwrap_or((&scheme, ""));
        let topology = topology(store, kind)?;
        let mut config = Self::new(topology);
        config.tls = plain == "rediss";
        config.user = store.take_user().filter(|user| !user.is_empty());
        config.password = store.take_password();
        if kind == "unix" {
            // A socket has no host that a login could precede.
            config.user = store.take_string("user");
            config.password = store.take_secret("password");
        }
        config.database = database(store, kind)?;
        config.take_options(store)?;
        store.finish()?;
        config.check().map_err(|error| error.with_store(store.redacted()))?;
        Ok(config)
    }

    fn take_options(&mut self, store: &mut StoreConfig) -> Result<(), Error> {
        if self.tls {
            self.ca_file = store.take_string("ca").map(Into::into);
            self.cert_file = store.take_string("cert").map(Into::into);
            self.key_file = store.take_string("key").map(Into::into);
        }
        if matches!(self.topology, Topology::Sentinel { .. }) {
            self.sentinel_user = store.take_string("sentinel_user");
            self.sentinel_password = store.take_secret("sentinel_password");
        }
        let compat = [Compat::RedisPy, Compat::PythonRedisLock].map(|compat| (compat.as_str(), compat));
        self.compat = store.take_choice("compat", &compat)?;
        self.key_prefix = store.take_string("key_prefix");
        self.connect_timeout = store.take_duration("connect_timeout")?.unwrap_or(self.connect_timeout);
        self.timeout = store.take_duration("timeout")?.unwrap_or(self.timeout);
        let replicas = store.take_u64("replicas", 1..=100)?;
        self.replicas = replicas.map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX));
        Ok(())
    }
}

fn topology(store: &mut StoreConfig, kind: &str) -> Result<Topology, Error> {
    let address = |default: u16| move |host: Host| Address::tcp(host.name, host.port.unwrap_or(default));
    let all = |store: &mut StoreConfig, default| store.take_hosts().into_iter().map(address(default)).collect();
    let topology = match kind {
        "" => Topology::Standalone(address(6379)(store.take_host("HOST")?)),
        "unix" => match store.take_path() {
            path if path.starts_with('/') => Topology::Standalone(Address::Unix(path.into())),
            _ => return Err(store.error("the path of the socket is missing; write redis+unix:///run/redis/redis.sock")),
        },
        "sentinel" => {
            let sentinels = all(store, 26379);
            match store.take_path().trim_start_matches('/') {
                "" => return Err(store.error("the service name is missing; write redis+sentinel://HOST,HOST/mymaster")),
                service => Topology::Sentinel { sentinels, service: service.into() },
            }
        }
        "cluster" => Topology::Cluster(all(store, 6379)),
        _ => Topology::Quorum(all(store, 6379)),
    };
    let hosts = match &topology {
        Topology::Sentinel { sentinels: hosts, .. } | Topology::Cluster(hosts) | Topology::Quorum(hosts) => hosts.len(),
        Topology::Standalone(_) => 1,
    };
    if hosts == 0 {
        return Err(store.error("the hosts are missing; write them after ://, separated by commas"));
    }
    Ok(topology)
}

/// Reads the database from the path, or from the option `db` if the path has another meaning.
fn database(store: &mut StoreConfig, kind: &str) -> Result<i64, Error> {
    let number = match kind {
        "" | "quorum" | "cluster" => {
            let path = store.take_path();
            match path.trim_start_matches('/') {
                "" => 0,
                text => text.parse::<u32>().map_err(|_| {
                    store.error(format!("\"{text}\" is not the number of a database; write a path such as /0"))
                })?,
            }
        }
        _ => {
            let number = store.take_u64("db", 0..=u64::from(u32::MAX))?.unwrap_or(0);
            u32::try_from(number).unwrap_or(u32::MAX)
        }
    };
    Ok(number.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::ErrorKind;
    use test_support::printed_settings::{are_all, stay_hidden, survive};

    use super::*;

    #[test]
    fn config_strings_are_read() {
        let tcp = |host: &str, port| Address::tcp(host, port);
        let one = |host: &str, port| RedisConfig::standalone(tcp(host, port));
        for (text, expected) in [
            ("redis://h", one("h", 6379)),
            ("redis://[::1]:7/3", one("::1", 7).database(3)),
            ("rediss://u:p@h", one("h", 6379).login("u", "p").tls()),
            ("redis://:p@h", one("h", 6379).password("p")),
            ("rediss://h?ca=/ca&cert=/c&key=/k", one("h", 6379).ca_file("/ca").client_certificate("/c", "/k")),
            (
                "redis+unix:///run/redis.sock?db=2",
                RedisConfig::standalone(Address::Unix("/run/redis.sock".into())).database(2),
            ),
            (
                "redis+unix:///run/redis.sock?user=u&password=p%26",
                RedisConfig::standalone(Address::Unix("/run/redis.sock".into())).login("u", "p&"),
            ),
            (
                "redis+sentinel://a,b:7/mymaster?sentinel_password=x&db=1",
                RedisConfig::new(Topology::Sentinel {
                    sentinels: vec![tcp("a", 26379), tcp("b", 7)],
                    service: "mymaster".into(),
                })
                .sentinel_login(None, "x")
                .database(1),
            ),
            ("rediss+cluster://a,b:7", RedisConfig::new(Topology::Cluster(vec![tcp("a", 6379), tcp("b", 7)])).tls()),
            (
                "redis+quorum://a,b,c",
                RedisConfig::new(Topology::Quorum(vec![tcp("a", 6379), tcp("b", 6379), tcp("c", 6379)])),
            ),
            (
                "redis://h?compat=redis-py&timeout=2s",
                one("h", 6379).compat(Compat::RedisPy).timeout(Duration::from_secs(2)),
            ),
            ("redis://h?replicas=2&key_prefix=x", one("h", 6379).replicas(2).key_prefix("x")),
            ("redis+cluster://a?replicas=1", RedisConfig::new(Topology::Cluster(vec![tcp("a", 6379)])).replicas(1)),
        ] {
            assert_eq!(RedisConfig::from_url(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn printed_settings_lead_to_the_same_settings() {
        let parse = RedisConfig::from_url;
        let usual = ["connect_timeout=7s", "timeout=1500ms", "key_prefix=a%26%20%3F%25%40"];
        let single = ["compat=redis-py", "replicas=2"];
        let tls = ["ca=/a%20b", "cert=/c&key=/k"];
        let logins = ["user=u&password=hunter2"];
        let sentinel_logins = ["sentinel_user=u&sentinel_password=hunter2"];
        for (url, more, hidden) in [
            ("redis://h:7", &[][..], &[][..]),
            ("redis://[::1]/3", &["compat=python-redis-lock"], &[]),
            ("rediss://h", &tls, &[]),
            ("redis+unix:///run/a%20b.sock", &["db=3"], &logins),
            ("redis+sentinel://a,b:7/my%20master", &["db=3"], &sentinel_logins),
            ("rediss+cluster://a,b:7", &tls, &[]),
        ] {
            survive(parse, url, &[&usual[..], &single, more].concat());
            stay_hidden(parse, url, hidden);
            are_all(parse, url, &[&usual, &single, more, hidden]);
        }
        survive(parse, "rediss+quorum://a,b:7,c/2", &[&usual[..], &tls].concat());
        assert_eq!(parse("redis://u:hunter2@h").unwrap().to_string(), "redis://h:6379");
    }

    #[test]
    fn the_name_of_a_store_has_all_that_chooses_its_keys() {
        for (text, shown) in [
            ("redis://u:s3cret@h/3?timeout=2s", "redis://h:6379/3"),
            ("redis://h/3?compat=redis-py", "redis://h:6379/3?compat=redis-py"),
            (
                "redis://h?key_prefix=app:&compat=python-redis-lock",
                "redis://h:6379?compat=python-redis-lock&key_prefix=app:",
            ),
            ("redis+unix:///run/redis.sock?key_prefix=x&db=2", "redis+unix:///run/redis.sock?db=2&key_prefix=x"),
            ("redis+cluster://a?key_prefix=x", "redis+cluster://a:6379?key_prefix=x"),
            // The prefix that is used anyway.
            ("redis://h?key_prefix=onelock:", "redis://h:6379"),
        ] {
            assert_eq!(RedisConfig::from_url(text).unwrap().name(), shown, "{text}");
        }
    }

    #[test]
    fn errors_name_the_mistake_and_hide_secrets() {
        for (text, hint) in [
            ("redis://", "redis://HOST"),
            ("redis://a,b", "takes one"),
            ("redis://h/x", "number of a database"),
            ("redis://h?timout=1s", "\"timeout\""),
            ("redis://h?ca=/x", "ca"),
            ("redis+unix://", "redis+unix:///run"),
            ("redis+unix:///run/redis.sock?password=s3cret&timout=1s", "\"timeout\""),
            ("redis://h?password=s3cret", "password"),
            ("redis+sentinel://a", "mymaster"),
            ("redis+cluster://a/1", "database 0"),
            ("redis+cluster://a?compat=python-redis-lock", "slots"),
            ("redis+quorum://a,b,c?replicas=1", "independent"),
            ("redis+quorum://a,b", "three"),
            ("redis://u:s3cret@h?key_prefix={x}", "braces"),
        ] {
            let error = RedisConfig::from_url(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains(hint) && !format!("{error:?}").contains("s3cret"), "{error}");
        }
    }
}
