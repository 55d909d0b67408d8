//! The attribute names and lease formats of lock clients in other languages.

use std::{fmt, str::FromStr, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;

use super::Attribute;

/// The item format of the clients that share the table.
///
/// The foreign schemas are those of DynamoDB lock clients in other languages. Those clients and
/// onelock exclude each other. They record no expiry, so a dead foreign holder is detected only by
/// watching its record for its whole lease. They replace or delete whole items, so there are no
/// fencing tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Schema {
    /// The native schema, for onelock only.
    #[default]
    Native,
    /// `amazon-dynamodb-lock-client` for Java.
    Java,
    /// `dynamolock` for Go. Its attributes have the Java client's names, but its leases another
    /// format.
    Go,
    /// `python_dynamodb_lock`.
    Python,
}

impl Schema {
    /// All schemas.
    pub const ALL: &[Self] = &[Self::Native, Self::Java, Self::Go, Self::Python];

    /// Returns its name in config strings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Java => "java",
            Self::Go => "go",
            Self::Python => "python",
        }
    }

    /// The client of this schema, as shown in messages.
    pub(crate) fn client(self) -> &'static str {
        match self {
            Self::Native => "a lock that onelock did not write",
            Self::Java => "a lock of amazon-dynamodb-lock-client (Java)",
            Self::Go => "a lock of dynamolock (Go)",
            Self::Python => "a lock of python_dynamodb_lock",
        }
    }

    /// The default name of the attribute in a table of this client.
    pub(crate) fn default_name(self, attribute: Attribute) -> &'static str {
        match self {
            Self::Native => attribute.as_str(),
            Self::Java | Self::Go => java(attribute),
            Self::Python => python(attribute),
        }
    }

    /// Whether a release deletes the item. The Python client has no other form of release.
    pub(crate) fn deletes_on_release(self) -> bool {
        self == Self::Python
    }

    /// Whether the client of this schema reads the attribute only under its default name.
    pub(crate) fn fixes(self, attribute: Attribute) -> bool {
        match attribute {
            Attribute::Version | Attribute::Owner | Attribute::Lease => self != Self::Native,
            Attribute::Released | Attribute::Data => matches!(self, Self::Java | Self::Go),
            _ => false,
        }
    }

    /// Writes a lease in the foreign client's format.
    pub(crate) fn encode_lease(self, lease: Duration) -> Option<AttributeValue> {
        match self {
            Self::Native => None,
            Self::Java => Some(AttributeValue::S(lease.as_millis().to_string())),
            Self::Go => Some(AttributeValue::S(format!("{}ms", lease.as_millis()))),
            // Whole seconds, rounded up: a longer lease is safe.
            Self::Python => Some(AttributeValue::N(lease.as_millis().div_ceil(1_000).to_string())),
        }
    }

    /// Reads a lease; `None` if no client of this schema would have written the value.
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
            format!("unknown schema \"{}\"; known: {}", s.escape_debug(), known.join(", "))
        })
    }
}

fn java(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Key => "key",
        Attribute::Version => "recordVersionNumber",
        Attribute::Owner => "ownerName",
        Attribute::Lease => "leaseDuration",
        Attribute::Released => "isReleased",
        Attribute::CollectAt => "onelock_collect_at",
        other => own(other),
    }
}

fn python(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Key => "lock_key",
        Attribute::Version => "record_version_number",
        Attribute::Owner => "owner_name",
        Attribute::Lease => "lease_duration",
        Attribute::CollectAt => "expiry_time",
        other => own(other),
    }
}

/// The names of attributes that foreign clients do not have.
fn own(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Ttl => "onelock_ttl_ms",
        Attribute::Released => "onelock_released",
        Attribute::Expires => "onelock_expires_at",
        Attribute::Since => "onelock_acquired_at",
        Attribute::Fence => "onelock_fence",
        Attribute::FreeAt => "onelock_free_at",
        Attribute::BrokenId => "onelock_broken_id",
        Attribute::BrokenBy => "onelock_broken_by",
        other => other.as_str(),
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
    fn each_schema_reads_only_its_own_leases() {
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
    fn an_unknown_schema_lists_the_known_ones() {
        let message = "rust".parse::<Schema>().unwrap_err();
        assert_eq!(message, "unknown schema \"rust\"; known: native, java, go, python");
    }
}
