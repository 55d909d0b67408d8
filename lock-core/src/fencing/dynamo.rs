//! Fenced writes to DynamoDB: a condition on the written item.

use crate::types::FencingToken;

/// The parts of a `PutItem`, `UpdateItem` or `DeleteItem` that DynamoDB refuses with `ConditionalCheckFailedException` when it comes from an
/// old holder. Names and values are those of the low-level API, as strings.
///
/// The item keeps the token in an attribute of its own: `PutItem` puts it there with [`value`](Self::value), `UpdateItem` by
/// [`assignment`](Self::assignment). An item without that attribute was written by nobody who held the lock, and is open to all.
///
/// A deleted item has forgotten its token. Where items are deleted, mark them as deleted instead, and let DynamoDB's TTL collect them
/// once no holder of that time can be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// For `ConditionExpression`; combine it with others by `AND (…)`.
    pub expression: String,
    /// For the `SET` of an `UpdateExpression`.
    pub assignment: String,
    /// For `ExpressionAttributeNames`: placeholder and attribute.
    pub name: (String, String),
    /// For `ExpressionAttributeValues`: placeholder and the text of a number (type `N`).
    pub value: (String, String),
}

impl Condition {
    /// The condition that no holder with a token above `token` has written the item, which keeps it in `attribute`.
    pub fn new(attribute: &str, token: FencingToken) -> Self {
        Self {
            expression: "(attribute_not_exists(#fence) OR #fence <= :fence)".into(),
            assignment: "#fence = :fence".into(),
            name: ("#fence".into(), attribute.into()),
            value: (":fence".into(), token.to_string()),
        }
    }
}
