//! Opens a backend from a config string.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Error,
    backend::Backend,
    config::{BackendFactory, StoreConfig},
};

use crate::{
    DynamoBackend,
    attributes::{Attribute, Schema},
    config::{DynamoConfig, Endpoint, Takeover},
};

/// Opens `dynamodb://TABLE?region=…`; `docs/dynamodb.md` has the options. Connects at the first
/// operation.
#[derive(Debug, Clone, Copy, Default)]
pub struct DynamoFactory;

#[async_trait]
impl BackendFactory for DynamoFactory {
    fn schemes(&self) -> &[&str] {
        &["dynamodb"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(DynamoBackend::new(DynamoConfig::take(config)?)))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        DynamoConfig::take(config).map(drop)
    }
}

impl DynamoConfig {
    /// Takes the settings from a config string, after the common options were taken.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Config`](lock_core::ErrorKind::Config) if a setting is wrong, missing
    /// or unknown.
    pub fn take(config: &mut StoreConfig) -> Result<Self, Error> {
        let table = take_table(config)?;
        let schemas: Vec<_> = Schema::ALL.iter().map(|schema| (schema.as_str(), *schema)).collect();
        // First, because it resets the names that other options change.
        let mut this = Self::new(table).schema(config.take_choice("schema", &schemas)?.unwrap_or_default());
        if let Some(key) = config.take_string("partition_key") {
            this = this.partition_key(key);
        }
        this = this.take_sort_key(config)?;
        for (attribute, name) in config.take_with("attributes", attributes)?.unwrap_or_default() {
            this = this.attribute(attribute, name);
        }
        if let Some(name) = config.take_string("ttl_attribute") {
            this = this.ttl_attribute(name);
        }
        let takeovers = [("absolute", Takeover::Absolute), ("observed", Takeover::Observed)];
        this.takeover = config.take_choice("takeover", &takeovers)?.unwrap_or_default();
        this.skew_bound = config.take_duration("skew_bound")?.unwrap_or(this.skew_bound);
        this.collect_after = config.take_duration("collect_after")?.unwrap_or(this.collect_after);
        this.read_first = config.take_bool("read_first")?.unwrap_or(false);
        this.region = config.take_string("region");
        this.endpoint = config.take_string("endpoint").map(Endpoint::new);
        this.profile = config.take_string("profile");
        this.role = config.take_string("role");
        this.fips = config.take_bool("fips")?.unwrap_or(false);
        this.dual_stack = config.take_bool("dual_stack")?.unwrap_or(false);
        this = this.take_credentials(config)?;
        config.finish()?;
        this.layout.check().map_err(|wrong| config.error(wrong))?;
        Ok(this)
    }

    fn take_sort_key(self, config: &mut StoreConfig) -> Result<Self, Error> {
        let (name, value) = (config.take_string("sort_key"), config.take_string("sort_value"));
        let default = self.layout.sort.clone();
        match (name.or(default.as_ref().map(|(name, _)| name.clone())), value) {
            (None, None) => Ok(self),
            (None, Some(_)) => Err(config.error("sort_value needs sort_key, the name of the table's sort key")),
            (Some(name), value) => {
                let value = value.or(default.map(|(_, value)| value)).unwrap_or_else(|| "-".into());
                Ok(self.sort_key(name, value))
            }
        }
    }

    fn take_credentials(self, config: &mut StoreConfig) -> Result<Self, Error> {
        let key = config.take_secret("access_key_id");
        let secret = config.take_secret("secret_access_key");
        let session = config.take_secret("session_token");
        match (key, secret) {
            (Some(key), Some(secret)) => {
                Ok(self.credentials(key.expose(), secret.expose(), session.map(|token| token.expose().to_owned())))
            }
            (None, None) if session.is_none() => Ok(self),
            _ => Err(config.error(
                "access_key_id and secret_access_key go together; set both, or leave both to the AWS environment",
            )),
        }
    }
}

/// Parses `version:v,fence:f`.
fn attributes(text: &str) -> Result<Vec<(Attribute, String)>, String> {
    let one = |pair: &str| {
        let (attribute, name) = pair.split_once(':').ok_or("is not like version:v,fence:f")?;
        let known = Attribute::ALL.iter().filter(|attribute| attribute.is_in_attributes());
        let found = known.clone().find(|known| known.as_str() == attribute).ok_or_else(|| {
            let known: Vec<_> = known.map(|attribute| attribute.as_str()).collect();
            format!("names \"{attribute}\", which is none of {}", known.join(", "))
        })?;
        Ok((*found, name.to_owned()))
    };
    text.split(',').map(one).collect()
}

/// Takes the table's name from the host, or its ARN from the path.
fn take_table(config: &mut StoreConfig) -> Result<String, Error> {
    let path = config.take_path();
    if path.starts_with("arn:") {
        return Ok(path);
    }
    if !path.is_empty() {
        return Err(config.error("a table has no path; write dynamodb://TABLE, or dynamodb:arn:aws:dynamodb:…"));
    }
    let host = config.take_host("TABLE")?;
    if host.port.is_some() {
        return Err(config.error("a table has no port; give the server as endpoint=http://HOST:PORT"));
    }
    Ok(host.name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::ConfigString;
    use test_support::printed_settings::{are_all, stay_hidden, survive};

    use super::*;

    fn parse(text: &str) -> Result<DynamoConfig, Error> {
        DynamoConfig::take(&mut ConfigString::parse(text)?.into())
    }

    #[test]
    fn config_strings_match_the_builder() {
        let new = || DynamoConfig::new("Locks_1.a-b");
        let python = || new().schema(Schema::Python);
        for (options, expected) in [
            ("", new()),
            ("?region=eu-central-1&profile=ops", new().region("eu-central-1").profile("ops")),
            ("?endpoint=http://127.0.0.1:8000&fips=true", new().endpoint("http://127.0.0.1:8000").fips(true)),
            ("?endpoint=http://h:8000/x/", new().endpoint("http://h:8000/x")),
            ("?dual_stack=true&role=arn:aws:iam::1:role/x", new().dual_stack(true).role("arn:aws:iam::1:role/x")),
            ("?schema=java&partition_key=id", new().schema(Schema::Java).partition_key("id")),
            ("?sort_key=range", new().sort_key("range", "-")),
            ("?sort_key=range&sort_value=x", new().sort_key("range", "x")),
            ("?schema=python&sort_value=x", python().sort_key("sort_key", "x")),
            ("?schema=python&sort_key=s", python().sort_key("s", "-")),
            (
                "?takeover=observed&skew_bound=500ms",
                new().takeover(Takeover::Observed).skew_bound(Duration::from_millis(500)),
            ),
            (
                "?collect_after=7d&ttl_attribute=ttl",
                new().collect_after(Duration::from_secs(7 * 86_400)).ttl_attribute("ttl"),
            ),
            (
                "?attributes=version:v,fence:status",
                new().attribute(Attribute::Version, "v").attribute(Attribute::Fence, "status"),
            ),
            ("?access_key_id=a&secret_access_key=b&session_token=c", new().credentials("a", "b", Some("c".into()))),
        ] {
            assert_eq!(parse(&format!("dynamodb://Locks_1.a-b{options}")).unwrap(), expected, "{options}");
        }
        let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/locks";
        assert_eq!(parse(&format!("dynamodb:{arn}")).unwrap(), DynamoConfig::new(arn));
    }

    #[test]
    fn printed_settings_lead_to_the_same_settings() {
        let options = [
            "region=eu-central-1",
            "endpoint=http://127.0.0.1:8000/a%20b",
            "profile=ops%26",
            "role=arn:aws:iam::1:role/x",
            "partition_key=id",
            "sort_key=range",
            "sort_key=range&sort_value=x%20%26",
            "ttl_attribute=ttl",
            "attributes=version:v,fence:f",
            "schema=java",
            "schema=go&ttl_attribute=collect_at",
            "schema=python&sort_key=sort_key&sort_value=x",
            "takeover=observed",
            "skew_bound=1500ms",
            "collect_after=7d",
            "read_first=true",
            "fips=true",
            "dual_stack=true",
        ];
        let key = ["access_key_id=hunter1&secret_access_key=hunter2&session_token=hunter3"];
        for url in ["dynamodb://locks", "dynamodb:arn:aws:dynamodb:eu-west-1:123456789012:table/locks"] {
            survive(parse, url, &options);
            stay_hidden(parse, url, &key);
            are_all(parse, url, &[&options, &key]);
        }
    }

    #[test]
    fn each_attribute_is_printed() {
        for schema in Schema::ALL {
            let default = DynamoConfig::new("locks").schema(*schema);
            for attribute in Attribute::ALL {
                let config = default.clone().attribute(*attribute, "another");
                if config.layout.check().is_ok() {
                    assert_eq!(parse(&config.to_string()).unwrap(), config, "{schema} {attribute}");
                    assert_eq!(config.name(), default.name(), "the items are the same");
                }
            }
        }
    }

    #[test]
    fn the_name_of_a_store_has_all_that_chooses_its_items() {
        for (options, shown) in [
            ("", ""),
            ("?region=eu-central-1&endpoint=http://h:8000", "?endpoint=http://h:8000&region=eu-central-1"),
            ("?sort_key=range&sort_value=x&skew_bound=1s", "?sort_key=range&sort_value=x"),
            ("?schema=python&read_first=true", "?schema=python"),
            ("?schema=python&sort_value=x", "?schema=python&sort_key=sort_key&sort_value=x"),
            ("?profile=ops&role=arn:aws:iam::1:role/x", "?profile=ops&role=arn:aws:iam::1:role/x"),
        ] {
            let name = parse(&format!("dynamodb://locks{options}")).unwrap().name();
            assert_eq!(name, format!("dynamodb://locks{shown}"), "{options}");
        }
    }

    #[test]
    fn config_string_errors_name_the_problem() {
        for (text, problem) in [
            ("dynamodb:", "TABLE is missing"),
            ("dynamodb://a,b", "takes one"),
            ("dynamodb://locks/x", "a table has no path"),
            ("dynamodb://localhost:8000", "endpoint=http://HOST:PORT"),
            ("dynamodb://locks?scheme=java", "did you mean \"schema\"?"),
            ("dynamodb://locks?schema=jaba", "did you mean \"java\"?"),
            ("dynamodb://locks?takeover=always", "must be one of absolute, observed"),
            ("dynamodb://locks?attributes=version", "is not like version:v"),
            ("dynamodb://locks?attributes=vershun:v", "names \"vershun\", which is none of version, owner,"),
            ("dynamodb://locks?attributes=key:v", "which is none of"),
            ("dynamodb://locks?attributes=version:owner", "would both be called \"owner\""),
            ("dynamodb://locks?schema=java&attributes=version:v", "do not rename it"),
            ("dynamodb://locks?ttl_attribute=fence", "would both be called"),
            ("dynamodb://locks?sort_value=x", "sort_value needs sort_key"),
            ("dynamodb://locks?secret_access_key=hunter2", "go together"),
            ("dynamodb://locks?session_token=hunter2", "go together"),
            ("dynamodb://u:hunter2@locks", "takes no user and password"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(problem) && !message.contains("hunter2"), "{text}: {message}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let config =
            parse("dynamodb://locks?region=r&access_key_id=hunter1&secret_access_key=hunter2&session_token=hunter3")
                .unwrap();
        assert!(!format!("{config:?} {config} {:?}", DynamoBackend::new(config.clone())).contains("hunter"));
        assert_eq!(config.to_string(), "dynamodb://locks?region=r");
        let config = parse("dynamodb://locks?endpoint=https://hunter1:hunter2%40proxy:8000/x").unwrap();
        assert!(!format!("{config:?} {config} {:?}", DynamoBackend::new(config.clone())).contains("hunter"));
        assert_eq!(config.to_string(), "dynamodb://locks?endpoint=https://***%40proxy:8000/x");
    }
}
