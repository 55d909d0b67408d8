//! A model of DynamoDB: one table, the operations that locks need, JSON in and JSON out, as on the
//! wire.
//!
//! The tests in `model.rs` compare it with DynamoDB Local, request by request.

mod expression;
mod partiql;
mod paths;
mod plant;
mod server;
mod tokens;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::expression::{Condition, Expressions, Update};
pub(crate) use self::server::DynamoServer;

/// An item: attributes by name, each with its type, such as `{"S": "text"}`.
pub(super) type Item = Map<String, Value>;

/// One table, in memory.
#[derive(Debug)]
pub(crate) struct Table {
    keys: Vec<String>,
    /// By the values of the keys.
    items: BTreeMap<String, Item>,
    /// The same, each before its last write: what a read may show that is not consistent.
    stale: BTreeMap<String, Option<Item>>,
}

/// A write, as it was asked for and before it takes effect; a test may change it to check that the
/// change is detected.
#[derive(Debug)]
pub(crate) struct Write {
    update: Update,
    condition: Condition,
}

/// Why a request is not fulfilled.
#[derive(Debug)]
enum Refusal {
    Invalid(String),
    /// The condition does not hold, on this item.
    Condition(Option<Item>),
}

impl From<String> for Refusal {
    fn from(problem: String) -> Self {
        Self::Invalid(problem)
    }
}

impl Table {
    /// An empty table whose keys, all strings, have these names.
    pub(crate) fn new(keys: &[&str]) -> Self {
        Self { keys: keys.iter().map(ToString::to_string).collect(), items: BTreeMap::new(), stale: BTreeMap::new() }
    }

    /// Answers a request with a status and a body. Changes every write by `plant` first.
    pub(crate) fn call(&mut self, operation: &str, body: &Value, plant: &dyn Fn(&mut Write)) -> (u16, Value) {
        let answer = match operation {
            "GetItem" => self.get(body),
            "Scan" => self.scan(body),
            "UpdateItem" => self.update(body, plant),
            "DeleteItem" => self.delete(body, plant),
            "BatchExecuteStatement" => self.batch(body, plant),
            other => return (400, json!({ "__type": "UnknownOperationException", "message": other })),
        };
        match answer {
            Ok(body) => (200, body),
            Err(Refusal::Invalid(problem)) => {
                (400, json!({ "__type": "com.amazon.coral.validate#ValidationException", "message": problem }))
            }
            Err(Refusal::Condition(item)) => {
                let shown = if body["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD" { item } else { None };
                let mut body = json!({
                    "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                    "message": "The conditional request failed",
                });
                if let Some(item) = shown {
                    body["Item"] = Value::Object(item);
                }
                (400, body)
            }
        }
    }

    /// Deletes the items whose TTL attribute has passed. DynamoDB does that at any time after.
    pub(crate) fn collect(&mut self, now: i64) {
        let at = |item: &Item| item.get("collect_at")?["N"].as_str()?.parse::<i64>().ok();
        self.items.retain(|_, item| at(item).is_none_or(|at| at > now));
    }

    fn get(&self, body: &Value) -> Result<Value, Refusal> {
        let place = self.place(&body["Key"])?;
        let (current, stale) = (self.items.get(&place), self.stale.get(&place));
        let item = if body["ConsistentRead"] == true { current } else { stale.map_or(current, Option::as_ref) };
        Ok(item.map_or_else(|| json!({}), |item| json!({ "Item": item })))
    }

    /// In one page, which is all that the model has.
    fn scan(&self, body: &Value) -> Result<Value, Refusal> {
        if body.get("Limit").is_some() || body.get("ExclusiveStartKey").is_some() {
            return Err(Refusal::Invalid("the model has no pages".into()));
        }
        let expressions = Expressions::new(body);
        let filter = expressions.condition(body["FilterExpression"].as_str())?;
        expressions.all_used()?;
        let items: Vec<_> = self.items.values().filter(|item| filter.holds(Some(item))).collect();
        Ok(json!({ "Items": items, "Count": items.len(), "ScannedCount": self.items.len() }))
    }

    fn update(&mut self, body: &Value, plant: &dyn Fn(&mut Write)) -> Result<Value, Refusal> {
        let expressions = Expressions::new(body);
        let update = expressions.update(body["UpdateExpression"].as_str().unwrap_or_default())?;
        let mut write = Write { update, condition: expressions.condition(body["ConditionExpression"].as_str())? };
        expressions.all_used()?;
        self.check_update(&write.update)?;
        plant(&mut write);
        let place = self.place(&body["Key"])?;
        let before = self.apply(&place, write, body["Key"].as_object().expect("it has a place"))?;
        let returned = before.filter(|_| body["ReturnValues"] == "ALL_OLD");
        Ok(returned.map_or_else(|| json!({}), |item| json!({ "Attributes": item })))
    }

    fn delete(&mut self, body: &Value, plant: &dyn Fn(&mut Write)) -> Result<Value, Refusal> {
        let expressions = Expressions::new(body);
        let condition = expressions.condition(body["ConditionExpression"].as_str())?;
        let mut write = Write { update: Update::default(), condition };
        expressions.all_used()?;
        plant(&mut write);
        let place = self.place(&body["Key"])?;
        let item = self.items.get(&place);
        if !write.condition.holds(item) {
            return Err(Refusal::Condition(item.cloned()));
        }
        let before = self.items.remove(&place);
        self.stale.insert(place, before);
        Ok(json!({}))
    }

    /// Each statement for itself. Like DynamoDB Local, a refused one shows no item.
    fn batch(&mut self, body: &Value, plant: &dyn Fn(&mut Write)) -> Result<Value, Refusal> {
        let mut responses = Vec::new();
        let statements = body["Statements"].as_array().map_or(&[][..], |statements| statements);
        let mut keys: Vec<_> = statements.iter().filter_map(|statement| self.key_of(statement)).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Refusal::Invalid("Provided list of item keys contains duplicates".into()));
        }
        for statement in statements {
            responses.push(match self.statement(statement, plant) {
                Ok(()) => json!({}),
                Err(Refusal::Invalid(problem)) => json!({ "Error": { "Code": "ValidationError", "Message": problem } }),
                Err(Refusal::Condition(_)) => json!({
                    "Error": { "Code": "ConditionalCheckFailed", "Message": "The conditional request failed" }
                }),
            });
        }
        Ok(json!({ "Responses": responses }))
    }

    /// Where a statement's item is, if it says so.
    fn key_of(&self, statement: &Value) -> Option<String> {
        let write = partiql::parse(statement).ok()?;
        self.place(&Value::Object(self.required(&write.condition)?)).ok()
    }

    /// The key that a condition asks for.
    fn required(&self, condition: &Condition) -> Option<Item> {
        self.keys.iter().map(|key| Some((key.clone(), condition.required(key)?.clone()))).collect()
    }

    fn statement(&mut self, statement: &Value, plant: &dyn Fn(&mut Write)) -> Result<(), Refusal> {
        let mut write = partiql::parse(statement)?;
        self.check_update(&write.update)?;
        let key = self.required(&write.condition).ok_or("the where clause lacks an equality on all keys".to_owned())?;
        let place = self.place(&Value::Object(key.clone()))?;
        if !self.items.contains_key(&place) {
            // A statement never makes an item.
            return Err(Refusal::Condition(None));
        }
        plant(&mut write);
        self.apply(&place, write, &key).map(|_| ())
    }

    /// Returns the item before the write.
    fn apply(&mut self, place: &str, write: Write, key: &Item) -> Result<Option<Item>, Refusal> {
        let item = self.items.get(place);
        if !write.condition.holds(item) {
            return Err(Refusal::Condition(item.cloned()));
        }
        let mut item = item.unwrap_or(key).clone();
        paths::change(&mut item, write.update)?;
        assert!(stays_for_its_lease(&item), "DynamoDB may delete the item of a held lock: {item:?}");
        let before = self.items.insert(place.to_owned(), item);
        self.stale.insert(place.to_owned(), before.clone());
        Ok(before)
    }

    fn check_update(&self, update: &Update) -> Result<(), String> {
        let mut touched: Vec<_> = update.set.iter().chain(&update.append).map(|(path, _)| path).collect();
        touched.extend(&update.remove);
        if touched.iter().any(|path| self.keys.contains(&path.attribute)) {
            return Err("Cannot update attribute. This attribute is part of the key".into());
        }
        touched.sort_unstable();
        if touched.windows(2).any(|pair| pair[0].contains(pair[1])) {
            return Err("Two document paths overlap with each other".into());
        }
        Ok(())
    }

    /// Where the item of a key is.
    fn place(&self, key: &Value) -> Result<String, String> {
        let given = key.as_object().map_or(0, Map::len);
        let values: Option<Vec<_>> = self.keys.iter().map(|name| key[name]["S"].as_str()).collect();
        match values {
            Some(values) if given == self.keys.len() && values.iter().all(|value| !value.is_empty()) => {
                Ok(json!(values).to_string())
            }
            _ => Err("The provided key element does not match the schema".into()),
        }
    }
}

/// Whether the item of a lock stays until its lease has ended for every client: the bound on the
/// difference of their clocks is 2 s.
fn stays_for_its_lease(item: &Item) -> bool {
    let number = |name: &str| item.get(name)?["N"].as_str()?.parse::<i64>().ok();
    let end = number("expires_at").max(number("free_at")).filter(|_| !item.contains_key("released"));
    number("collect_at").is_none_or(|at| end.is_none_or(|end| at * 1_000 >= end + 2_000))
}
