//! How a lock looks as an item: its attributes, by the client that shall understand them.

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
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$attribute,)*];

            /// What it is called in config strings, and in the native schema by default.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$attribute => $text,)* }
            }
        }
    };
}

attributes! {
    /// The partition key: the lock's name.
    Key = "key",
    /// Who holds the lock and since which heartbeat: `<lease id>.<random>`, or whatever a foreign
    /// client writes.
    Version = "version",
    /// How the holder calls itself.
    Owner = "owner",
    /// The lease as foreign clients write it. Not in the native schema.
    Lease = "lease",
    /// The lease in milliseconds, as we write it.
    Ttl = "ttl_ms",
    /// `"1"` once the lock was released.
    Released = "released",
    /// What others may read.
    Data = "data",
    /// When the lease ends, on the store's clock, in milliseconds.
    Expires = "expires_at",
    /// When the lock was acquired, on the store's clock, in milliseconds.
    Since = "acquired_at",
    /// The fencing token.
    Fence = "fence",
    /// A released lock that is kept for a while (`min_hold`): until when, on the store's clock, in
    /// milliseconds.
    FreeAt = "free_at",
    /// The lease id that an operator took the lock from.
    BrokenId = "broken_id",
    /// That operator.
    BrokenBy = "broken_by",
    /// When DynamoDB may delete the item for being idle, in seconds (its TTL attribute). Decides
    /// nothing.
    CollectAt = "collect_at",
}

impl Attribute {
    /// Whether its name in the native schema is a word that DynamoDB reserves.
    pub(crate) fn is_reserved(self) -> bool {
        matches!(self, Self::Key | Self::Owner | Self::Data)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
