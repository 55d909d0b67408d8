//! Fenced writes to DynamoDB: a condition on the written item.

use crate::types::FencingToken;

/// The condition of a `PutItem`, `UpdateItem` or `DeleteItem`. DynamoDB refuses a write of an old
/// holder with `ConditionalCheckFailedException`. Names and values are strings of the low-level
/// API.
///
/// The item stores the token in an attribute: `PutItem` sets it to [`value`](Self::value),
/// `UpdateItem` by [`assignment`](Self::assignment). An item without that attribute was never
/// written under the lock, and accepts every token.
///
/// A deleted item has lost its token. So mark items as deleted instead of deleting them, and let
/// DynamoDB's TTL remove them when no holder of that time can be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The `ConditionExpression`. Combine it with other conditions by `AND (…)`.
    pub expression: String,
    /// The assignment for the `SET` of an `UpdateExpression`.
    pub assignment: String,
    /// The entry of `ExpressionAttributeNames`: placeholder and attribute.
    pub name: (String, String),
    /// The entry of `ExpressionAttributeValues`: placeholder and the text of a number (type `N`).
    pub value: (String, String),
}

impl Condition {
    /// Creates the condition that no holder with a token larger than `token` has written the item.
    /// The item stores the token in `attribute`.
    pub fn new(attribute: &str, token: FencingToken) -> Self {
        Self {
            expression: "(attribute_not_exists(#fence) OR #fence <= :fence)".into(),
            assignment: "#fence = :fence".into(),
            name: ("#fence".into(), attribute.into()),
            value: (":fence".into(), token.to_string()),
        }
    }
}
