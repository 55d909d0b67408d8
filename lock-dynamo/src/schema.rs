//! How a lock looks as an item: attribute names and encodings, by the client that shall understand it.

use std::{fmt, str::FromStr, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;

/// Which clients share the table.
///
/// The foreign schemas are those of the DynamoDB lock clients in other languages: they exclude us, and we them. They keep no expiry, so a
/// dead foreign holder is only found out by watching it for its whole lease; and they replace or delete whole items, so there are no
/// fencing tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Schema {
    /// Only dlock.
    #[default]
    Native,
    /// `amazon-dynamodb-lock-client` for Java.
    Java,
    /// `dynamolock` for Go. Its leases are not those of the Java client, although all attributes have the same names.
    Go,
    /// `python_dynamodb_lock`.
    Python,
}

impl Schema {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Native, Self::Java, Self::Go, Self::Python];

    /// Its name in config strings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Java => "java",
            Self::Go => "go",
            Self::Python => "python",
        }
    }

    /// The client whose locks these are, for people.
    pub(crate) fn client(self) -> &'static str {
        match self {
            Self::Native => "a lock that dlock did not write",
            Self::Java => "a lock of amazon-dynamodb-lock-client (Java)",
            Self::Go => "a lock of dynamolock (Go)",
            Self::Python => "a lock of python_dynamodb_lock",
        }
    }

    /// Whether a released lock is a deleted item: the Python client knows no other.
    pub(crate) fn deletes_on_release(self) -> bool {
        self == Self::Python
    }

    /// The foreign client's text or number for a lease.
    pub(crate) fn encode_lease(self, lease: Duration) -> Option<AttributeValue> {
        match self {
            Self::Native => None,
            Self::Java => Some(AttributeValue::S(lease.as_millis().to_string())),
            Self::Go => Some(AttributeValue::S(format!("{}ms", lease.as_millis()))),
            // Whole seconds; longer is the safe side.
            Self::Python => Some(AttributeValue::N(lease.as_millis().div_ceil(1_000).to_string())),
        }
    }

    /// Reads a lease; `None` when no client of this schema would have written it.
    pub(crate) fn decode_lease(self, value: &AttributeValue) -> Option<Duration> {
        match (self, value) {
            (Self::Java, AttributeValue::S(text)) => text.parse().ok().map(Duration::from_millis),
            (Self::Go, AttributeValue::S(text)) => go_duration(text),
            (Self::Python, AttributeValue::N(text)) => {
                text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Schema {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|schema| schema.as_str() == s).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|schema| schema.as_str()).collect();
            format!("there is no schema \"{}\"; there are: {}", s.escape_debug(), known.join(", "))
        })
    }
}

/// Parses what Go's `time.Duration` prints and reads: "20s", "1m30s", "1.5s", "500ms".
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

/// An attribute of a lock's item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attr {
    /// The partition key: the lock's name.
    Key,
    /// Who holds the lock and since which heartbeat: `<lease id>.<random>`, or whatever a foreign client writes.
    Version,
    /// How the holder calls itself.
    Owner,
    /// The lease as foreign clients write it.
    Lease,
    /// The lease in milliseconds, as we write it.
    Ttl,
    /// `"1"` once the lock was released.
    Released,
    /// What others may read.
    Data,
    /// When the lease ends, on the store's clock, in milliseconds.
    Expires,
    /// When the lock was acquired, on the store's clock, in milliseconds.
    Since,
    /// The fencing token.
    Fence,
    /// A released lock that is kept for a while (`min_hold`): until when, on the store's clock, in milliseconds.
    FreeAt,
    /// The lease id that an operator took the lock from.
    BrokenId,
    /// That operator.
    BrokenBy,
    /// When DynamoDB may delete the item for being idle, in seconds (its TTL attribute). Decides nothing.
    CollectAt,
}

/// The names of all attributes in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) schema: Schema,
    pub(crate) key: String,
    /// Name and value.
    pub(crate) sort: Option<(String, String)>,
    pub(crate) collect_at: String,
}

impl Layout {
    /// What the client of that schema uses by default.
    pub(crate) fn of(schema: Schema) -> Self {
        let (key, sort, collect_at) = match schema {
            Schema::Native => ("key", None, "collect_at"),
            Schema::Java | Schema::Go => ("key", None, "dlock_collect_at"),
            Schema::Python => ("lock_key", Some(("sort_key".into(), "-".into())), "expiry_time"),
        };
        Self { schema, key: key.into(), sort, collect_at: collect_at.into() }
    }

    /// Whether items keep a fencing token. Foreign clients replace or delete whole items, and it with them.
    pub(crate) fn fences(&self) -> bool {
        self.schema == Schema::Native
    }

    pub(crate) fn name(&self, attr: Attr) -> &str {
        match attr {
            Attr::Key => &self.key,
            Attr::CollectAt => &self.collect_at,
            _ => match self.schema {
                Schema::Native => native(attr),
                Schema::Java | Schema::Go => java(attr),
                Schema::Python => python(attr),
            },
        }
    }
}

fn native(attr: Attr) -> &'static str {
    match attr {
        Attr::Version => "version",
        Attr::Owner => "owner",
        Attr::Released => "released",
        other => own(other).strip_prefix("dlock_").unwrap_or(own(other)),
    }
}

fn java(attr: Attr) -> &'static str {
    match attr {
        Attr::Version => "recordVersionNumber",
        Attr::Owner => "ownerName",
        Attr::Lease => "leaseDuration",
        Attr::Released => "isReleased",
        other => own(other),
    }
}

fn python(attr: Attr) -> &'static str {
    match attr {
        Attr::Version => "record_version_number",
        Attr::Owner => "owner_name",
        Attr::Lease => "lease_duration",
        other => own(other),
    }
}

/// What no foreign client has a name for.
fn own(attr: Attr) -> &'static str {
    match attr {
        Attr::Data => "data",
        Attr::Ttl | Attr::Lease => "dlock_ttl_ms",
        Attr::Released => "dlock_released",
        Attr::Expires => "dlock_expires_at",
        Attr::Since => "dlock_acquired_at",
        Attr::Fence => "dlock_fence",
        Attr::FreeAt => "dlock_free_at",
        Attr::BrokenId => "dlock_broken_id",
        Attr::BrokenBy => "dlock_broken_by",
        Attr::Key | Attr::Version | Attr::Owner | Attr::CollectAt => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_as_go_prints_them() {
        for (text, millis) in [("20s", 20_000), ("1m30s", 90_000), ("1h0m0.5s", 3_600_500), ("500ms", 500), ("0s", 0)] {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "20", "20000", "s", "20x", "-5s", "1.2.3s", "∞s"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_schema_reads_its_own_leases_and_not_the_others() {
        let s = |text: &str| AttributeValue::S(text.into());
        let n = |text: &str| AttributeValue::N(text.into());
        let twenty = Some(Duration::from_secs(20));
        assert_eq!(Schema::Java.decode_lease(&s("20000")), twenty);
        assert_eq!(Schema::Java.decode_lease(&s("20s")), None);
        assert_eq!(Schema::Go.decode_lease(&s("20s")), twenty);
        assert_eq!(Schema::Go.decode_lease(&s("20000")), None);
        assert_eq!(Schema::Python.decode_lease(&n("20")), twenty);
        assert_eq!(Schema::Python.decode_lease(&s("20")), None);
        for schema in [Schema::Java, Schema::Go, Schema::Python] {
            let encoded = schema.encode_lease(Duration::from_secs(20)).unwrap();
            assert_eq!(schema.decode_lease(&encoded), twenty, "{schema}");
        }
        assert_eq!(Schema::Python.encode_lease(Duration::from_millis(1_001)), Some(n("2")));
    }

    #[test]
    fn no_two_attributes_of_a_schema_share_a_name() {
        use Attr::*;
        let all =
            [Key, Version, Owner, Ttl, Released, Data, Expires, Since, Fence, FreeAt, BrokenId, BrokenBy, CollectAt];
        for &schema in Schema::ALL {
            let layout = Layout::of(schema);
            let mut names: Vec<_> = all.iter().map(|attr| layout.name(*attr)).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{schema}: {names:?}");
            assert!(!names.contains(&""), "{schema}");
        }
    }

    #[test]
    fn an_unknown_schema_lists_the_known_ones() {
        let message = "rust".parse::<Schema>().unwrap_err();
        assert_eq!(message, "there is no schema \"rust\"; there are: native, java, go, python");
    }
}
