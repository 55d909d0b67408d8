//! The attributes of a lock's item, for each client that may read them.

mod layout;
mod schema;

use std::fmt;

pub(crate) use self::layout::Layout;
pub use self::schema::Schema;

macro_rules! attributes {
    ($($(#[$doc:meta])* $attribute:ident = $text:literal,)*) => {
        /// An attribute of a lock's item. Its name in the table can be chosen; see
        /// [`DynamoConfig::attribute`](crate::DynamoConfig::attribute).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Attribute {
            $($(#[$doc])* $attribute,)*
        }

        impl Attribute {
            /// All attributes.
            pub const ALL: &[Self] = &[$(Self::$attribute,)*];

            /// Returns its name in config strings, which is its default name in the native schema.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$attribute => $text,)* }
            }
        }
    };
}

attributes! {
    /// The partition key: the lock's name.
    Key = "key",
    /// The holder and its latest heartbeat: `<lease id>.<random>`, or the version that a foreign
    /// client writes.
    Version = "version",
    /// The name that the holder gave itself.
    Owner = "owner",
    /// The lease in the format of foreign clients. Not in the native schema.
    Lease = "lease",
    /// The lease in milliseconds, in onelock's format.
    Ttl = "ttl_ms",
    /// `"1"` if the lock is released.
    Released = "released",
    /// Data of the holder that other clients may read.
    Data = "data",
    /// When the lease ends, on the store's clock, in milliseconds.
    Expires = "expires_at",
    /// When the lock was acquired, on the store's clock, in milliseconds.
    Since = "acquired_at",
    /// The fencing token.
    Fence = "fence",
    /// When a released lock with a `min_hold` becomes free, on the store's clock, in milliseconds.
    FreeAt = "free_at",
    /// The lease id that an operator broke.
    BrokenId = "broken_id",
    /// The operator who broke the lock.
    BrokenBy = "broken_by",
    /// When DynamoDB may delete the idle item, in seconds (its TTL attribute). Does not affect the
    /// lock.
    CollectAt = "collect_at",
    /// How the holders of a shared lock or of permits hold it. Only in the native schema.
    Mode = "mode",
    /// The holders of a shared lock or of permits, a map by lease id. Only in the native schema.
    Parts = "parts",
    /// The request that waits for holders of another mode. Only in the native schema.
    Waiting = "waiting",
    /// The queue of fair requests, a list in the order of their arrival. Only in the native schema.
    Places = "places",
}

impl Attribute {
    /// Whether the option `attributes` renames it. The keys and the TTL attribute have options of
    /// their own.
    pub(crate) fn is_in_attributes(self) -> bool {
        !matches!(self, Self::Key | Self::CollectAt)
    }

    /// Whether its name in the native schema is a word that DynamoDB reserves.
    pub(crate) fn is_reserved(self) -> bool {
        matches!(self, Self::Key | Self::Owner | Self::Data | Self::Mode)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
