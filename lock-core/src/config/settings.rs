//! A store in the configuration file of an application: TOML, JSON, YAML, or another format of
//! `serde`.

use std::{collections::BTreeMap, env, ffi::OsString, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

use super::{
    Common, ConfigString, Secret,
    secret::{MASK, is_secret},
    suggest::nearest,
};
use crate::types::{Error, ErrorKind, Operation};

const URL: &str = "url";
const PASSWORD: &str = "password";

/// A store and its options, as a part of an application's own configuration.
///
/// Settings have the same meaning as a [`ConfigString`], and convert to one.
/// [`Registry::open`](crate::Registry::open) takes either.
///
/// They are a config string alone, or a table with these entries:
///
/// - `url`, a config string
/// - optionally `password`
/// - any options of the config string, as texts, whole numbers, `true`, `false`, or lists of these
///
/// ```toml
/// [lock]
/// url = "redis://app@db.internal:6379/0"
/// password_file = "/run/secrets/redis"
/// ttl = "20s"
/// require = ["fencing", "holder"]
/// replicas = 1
/// ```
///
/// Deserialization accepts any table. Errors appear at the conversion to a `ConfigString`, as
/// errors of config strings, so no deserializer prints a line with a password. Serialization
/// includes the secrets; it is for files, not for logs.
///
/// ```
/// use lock_core::{ConfigString, config::Settings};
///
/// #[derive(serde::Deserialize)]
/// struct Application {
///     lock: Settings,
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = r#"{ "lock": {
///     "url": "redis://db.internal", "ttl": "20s", "require": ["fencing", "holder"]
/// } }"#;
/// let application: Application = serde_json::from_str(file)?;
/// let config = ConfigString::try_from(application.lock)?;
/// assert_eq!(config, ConfigString::parse("redis://db.internal?ttl=20s&require=fencing,holder")?);
/// # Ok(())
/// # }
/// ```
///
/// # Layers
///
/// Applications read settings from a file, then from the environment, then from their arguments.
/// Each of these is a layer. [`overlay`](Self::overlay) puts a later layer over an earlier one,
/// option by option:
///
/// ```
/// use lock_core::{ConfigString, config::Settings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = r#"{ "url": "redis://db.internal?ttl=20s", "replicas": 1 }"#;
/// let file: Settings = serde_json::from_str(file)?;
/// let environment = Settings::from_env("APP_LOCK"); // APP_LOCK_URL, APP_LOCK_TTL, ...
/// let argument = Settings::default().with_option("ttl", "5s");
/// let settings = file.overlay(environment).overlay(argument);
/// let expected = ConfigString::parse("redis://db.internal?replicas=1&ttl=5s")?;
/// assert_eq!(ConfigString::try_from(settings)?, expected);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    url: Option<String>,
    password: Option<Secret>,
    options: BTreeMap<String, String>,
    /// A problem that a config string cannot have.
    problem: Option<String>,
}

impl Settings {
    /// Creates settings from a config string alone, such as that of an argument.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// Sets an option, and replaces an earlier value. `url` and `password` are options too.
    #[must_use]
    pub fn with_option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        match (name.into(), value.into()) {
            (name, value) if name == URL => self.url = Some(value),
            (name, value) if name == PASSWORD => self.password = Some(Secret::new(value)),
            (name, value) => drop(self.options.insert(name, value)),
        }
        self
    }

    /// Reads the layer of the environment. The variable `PREFIX_URL` is a config string;
    /// `PREFIX_TTL` and so on are the options that every store has. An unset or empty variable sets
    /// nothing.
    pub fn from_env(prefix: &str) -> Self {
        Self::from_variables(prefix, |name| env::var_os(name))
    }

    pub(super) fn from_variables(prefix: &str, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut settings = Self::default();
        for option in Common::NAMES.into_iter().chain([URL]) {
            let name = format!("{prefix}_{}", option.to_uppercase());
            match variable(&name).map(OsString::into_string) {
                None => {}
                Some(Ok(value)) if value.is_empty() => {}
                Some(Ok(value)) => settings = settings.with_option(option, value),
                Some(Err(_)) => {
                    settings.problem.get_or_insert(format!("the variable {name} is not UTF-8"));
                }
            }
        }
        settings
    }

    /// Puts the layer `later` over these settings. Each of its options wins, in the url or beside
    /// it.
    ///
    /// A url of `later` replaces the url and the password of these settings. If it has another
    /// scheme, only the options that every store has are kept, because the others belong to the old
    /// store.
    #[must_use]
    pub fn overlay(self, later: Self) -> Self {
        let (earlier, later) = match (self.spread(), later.spread()) {
            (Ok(earlier), Ok(later)) => (earlier, later),
            // A problem of one layer is reported at the conversion to a config string.
            (Err(wrong), _) | (_, Err(wrong)) => return wrong,
        };
        let mut merged = earlier;
        if later.url.is_some() {
            if merged.scheme() != later.scheme() {
                merged.options.retain(|name, _| Common::NAMES.contains(&name.as_str()));
            }
            merged.url = later.url;
            merged.password = None;
        }
        merged.password = later.password.or(merged.password);
        merged.options.extend(later.options);
        merged
    }

    /// Moves every option out of the url. Returns the unchanged settings as the error if they are
    /// invalid.
    fn spread(self) -> Result<Self, Self> {
        if self.problem.is_some() {
            return Err(self);
        }
        if self.url.is_none() {
            return Ok(self);
        }
        match ConfigString::try_from(&self) {
            Ok(config) => Ok(config.into()),
            Err(_) => Err(self),
        }
    }

    fn scheme(&self) -> Option<&str> {
        self.url.as_deref()?.split(':').next()
    }
}

impl TryFrom<Settings> for ConfigString {
    type Error = Error;

    /// # Errors
    /// Of kind [`ErrorKind::Config`]: those of [`ConfigString::parse`], and if `url` is missing, an
    /// option or the password is given twice, or a value has an unsupported type.
    fn try_from(settings: Settings) -> Result<Self, Error> {
        let wrong = |problem: String| Error::new(ErrorKind::Config, problem).with_operation(Operation::Open);
        if let Some(problem) = settings.problem {
            return Err(wrong(problem));
        }
        let Some(url) = settings.url else {
            let near = settings.options.keys().find(|key| nearest(key, [URL]).is_some());
            let near = near.map(|key| format!("; is \"{key}\" a misspelling of it?")).unwrap_or_default();
            return Err(wrong(format!(
                "the settings of the store have no url; add one such as url = \"file:///var/lib/app/locks\"{near}"
            )));
        };
        let mut config = Self::parse(&url)?;
        if let Some(password) = settings.password {
            config = config.with_password(password)?;
        }
        settings.options.into_iter().try_fold(config, |config, (name, value)| config.with_option(name, value))
    }
}

impl TryFrom<&Settings> for ConfigString {
    type Error = Error;

    fn try_from(settings: &Settings) -> Result<Self, Error> {
        settings.clone().try_into()
    }
}

impl From<ConfigString> for Settings {
    fn from(mut config: ConfigString) -> Self {
        let password = config.password.take();
        // An option named `url` or `password` stays in the url, because the table uses these names.
        let (kept, options) =
            config.options.into_iter().partition(|(name, _)| [URL, PASSWORD].contains(&name.as_str()));
        config.options = kept;
        Self { url: Some(config.expose()), password, options, problem: None }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(|url| match ConfigString::parse(url) {
            Ok(config) => config.redacted(),
            Err(error) => error.store().unwrap_or(MASK).to_owned(),
        });
        let shown = |(name, value): (&String, &String)| {
            (name.clone(), if is_secret(name, value) { MASK.to_owned() } else { value.clone() })
        };
        let options: BTreeMap<_, _> = self.options.iter().map(shown).collect();
        f.debug_struct("Settings").field(URL, &url).field(PASSWORD, &self.password).field("options", &options).finish()
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(url) = &self.url {
            map.serialize_entry(URL, url)?;
        }
        if let Some(password) = &self.password {
            map.serialize_entry(PASSWORD, password.expose())?;
        }
        for (name, value) in &self.options {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let settings = match deserializer.deserialize_any(Reader)? {
            Read::Text(url) => Self { url: Some(url), ..Self::default() },
            Read::Table(settings) => *settings,
            Read::List(_) | Read::Nothing => Self {
                problem: Some(
                    "the settings of a store must be a config string, or a table with url and options".into(),
                ),
                ..Self::default()
            },
        };
        Ok(settings)
    }
}

/// A value of any type that a format supports.
enum Read {
    Text(String),
    /// The elements; `None` for an element that is a list or a table.
    List(Vec<Option<String>>),
    Table(Box<Settings>),
    Nothing,
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

macro_rules! visit_as_text {
    ($($visit:ident: $type:ty,)*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Read, E> {
            Ok(Read::Text(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for Reader {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a config string, or a table with url and options")
    }

    visit_as_text! {
        visit_str: &str,
        visit_bool: bool,
        visit_i64: i64,
        visit_u64: u64,
        visit_i128: i128,
        visit_u128: u128,
        visit_f64: f64,
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read::Nothing)
    }

    fn visit_none<E>(self) -> Result<Read, E> {
        Ok(Read::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Read, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(match item {
                Read::Text(text) => Some(text),
                Read::Nothing | Read::List(_) | Read::Table(_) => None,
            });
        }
        Ok(Read::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        let mut settings = Settings::default();
        while let Some(name) = map.next_key::<String>()? {
            if settings.problem.is_some() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            settings.problem = settings.put(name, map.next_value()?).err();
        }
        Ok(Read::Table(Box::new(settings)))
    }
}

impl Settings {
    fn put(&mut self, name: String, value: Read) -> Result<(), String> {
        let text = match value {
            Read::Text(text) => Some(text),
            Read::List(items) => items.into_iter().collect::<Option<Vec<_>>>().map(|items| items.join(",")),
            // Refused later as an option without a value.
            Read::Nothing => Some(String::new()),
            Read::Table(_) => None,
        };
        let Some(text) = text else {
            return Err(format!(
                "\"{}\" must be a text, a whole number, true, false or a list of these",
                name.escape_debug()
            ));
        };
        let twice = match name.as_str() {
            URL => self.url.replace(text).is_some(),
            PASSWORD => self.password.replace(Secret::new(text)).is_some(),
            _ => self.options.insert(name.clone(), text).is_some(),
        };
        if twice { Err(format!("\"{}\" is given twice; leave one out", name.escape_debug())) } else { Ok(()) }
    }
}
