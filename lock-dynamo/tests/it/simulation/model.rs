//! The model of DynamoDB against DynamoDB Local: the same requests, the same answers.

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    sync::{Arc, Mutex},
    time::Duration,
};

use lock_core::{
    LockName, Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Lease, LeaseId},
};
use lock_dynamo::{DynamoBackend, DynamoConfig};
use serde_json::{Value, json};
use test_support::dynamodb::DynamoDbLocal;

use super::{
    exchange::{self, Exchange, ask},
    model_server::Table,
};

/// The model, and a table of its own on the server.
#[derive(Debug)]
pub(crate) struct Both {
    server: &'static DynamoDbLocal,
    table: String,
    model: Mutex<Table>,
    /// How often each operation was answered with each status.
    answers: Mutex<BTreeMap<(String, u16), u32>>,
}

impl Both {
    fn new() -> Self {
        let (server, table) = (DynamoDbLocal::shared(), format!("model-{}", LeaseId::random()));
        let create = json!({
            "TableName": table, "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
        });
        assert_eq!(server.call("CreateTable", &create).0, 200);
        Self { server, table, model: Mutex::new(Table::new(&["key"])), answers: Mutex::default() }
    }

    /// Asks both. What they answer must mean the same.
    fn call(&self, operation: &str, body: &Value) -> (u16, Value) {
        let real = self.server.call(operation, body);
        let modelled = ask(&mut self.model.lock().unwrap(), operation, body);
        assert_eq!(meaning(&modelled), meaning(&real), "{operation} {body:#}\nthe server said {:#}", real.1);
        *self.answers.lock().unwrap().entry((operation.into(), real.0)).or_default() += 1;
        real
    }

    /// Every answer that locks see was given more than `least` times.
    #[track_caller]
    fn saw_each(&self, least: u32) {
        let answers = self.answers.lock().unwrap();
        for (operation, status) in [
            ("GetItem", 200),
            ("Scan", 200),
            ("UpdateItem", 200),
            ("UpdateItem", 400),
            ("DeleteItem", 200),
            ("DeleteItem", 400),
            ("BatchExecuteStatement", 200),
        ] {
            let times = answers.get(&(operation.into(), status)).copied().unwrap_or(0);
            assert!(times > least, "{operation} with {status}: {answers:?}");
        }
    }
}

/// An answer without the server's words.
fn meaning((status, body): &(u16, Value)) -> Value {
    let code = |error: &Value| {
        let code = error["__type"].as_str().or(error["Code"].as_str()).unwrap_or_default();
        code.rsplit('#').next().unwrap_or_default().to_owned()
    };
    let statements = body["Responses"].as_array().into_iter().flatten();
    let statements: Vec<_> = statements.map(|one| json!([code(&one["Error"]), one["Item"]])).collect();
    // A scan's order is the server's own.
    let mut items: Vec<_> = body["Items"].as_array().into_iter().flatten().collect();
    items.sort_by_key(|item| item["key"]["S"].as_str());
    let shown = [&body["Item"], &body["Attributes"], &body["Count"], &body["ScannedCount"]];
    json!([status, code(body), shown, statements, items])
}

/// Requests by chance: of a few names and values, so that conditions hold now and then.
struct Chance(fastrand::Rng);

const NAMES: [&str; 5] = ["a", "b", "n", "status", "dotted.name"];

impl Chance {
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())].clone()
    }

    fn value(&mut self) -> Value {
        if self.0.bool() {
            json!({ "N": self.one(&["-3", "0", "7", "1700000000000000"]) })
        } else {
            json!({ "S": self.one(&["x", "xy", "y", "10"]) })
        }
    }

    /// A condition, as text with placeholders and in PartiQL.
    fn condition(&mut self, depth: u32, words: &mut Words) -> (String, String) {
        match self.0.u8(..if depth == 0 { 4 } else { 7 }) {
            0 => {
                let (name, quoted) = words.name(self.one(&NAMES));
                (format!("attribute_not_exists({name})"), format!("{quoted} IS MISSING"))
            }
            1 => {
                let (name, quoted) = words.name(self.one(&NAMES));
                (format!("attribute_exists({name})"), format!("{quoted} IS NOT MISSING"))
            }
            2 => {
                let (name, quoted) = words.name(self.one(&NAMES));
                let value = words.value(json!({ "S": self.one(&["x", "xy"]) }));
                (format!("begins_with({name}, {value})"), format!("begins_with({quoted}, ?)"))
            }
            3 => {
                let (name, quoted) = words.name(self.one(&NAMES));
                let (sign, value) = (self.one(&["=", "<", "<=", ">", ">="]), self.value());
                let value = words.value(value);
                (format!("{name} {sign} {value}"), format!("{quoted} {sign} ?"))
            }
            4 => {
                let (text, ql) = self.condition(depth - 1, words);
                // Redundant parentheses are an error.
                if text.starts_with('(') {
                    (format!("NOT {text}"), format!("NOT {ql}"))
                } else {
                    (format!("NOT ({text})"), format!("NOT ({ql})"))
                }
            }
            other => {
                let word = if other == 5 { "AND" } else { "OR" };
                let ((a, qa), (b, qb)) = (self.condition(depth - 1, words), self.condition(depth - 1, words));
                (format!("({a} {word} {b})"), format!("({qa} {word} {qb})"))
            }
        }
    }

    fn update(&mut self, words: &mut Words) -> (String, String) {
        let (mut set, mut remove, mut ql) = (Vec::new(), Vec::new(), String::new());
        for name in NAMES {
            // Now and then one attribute is in both, which is an error.
            let choice = self.0.u8(..40);
            if choice < 14 {
                let (name, quoted) = words.name(name);
                let value = self.value();
                set.push(format!("{name} = {}", words.value(value)));
                ql += &format!(" SET {quoted} = ?");
            }
            if (13..22).contains(&choice) {
                let (name, quoted) = words.name(name);
                remove.push(name);
                ql += &format!(" REMOVE {quoted}");
            }
        }
        let list = |word: &str, parts: &[String]| {
            if parts.is_empty() { String::new() } else { format!("{word} {} ", parts.join(", ")) }
        };
        (format!("{}{}", list("SET", &set), list("REMOVE", &remove)), ql)
    }

    fn request(&mut self, table: &str) -> (&'static str, Value) {
        let key = self.one(&["one", "two", "three"]);
        let mut words = Words::default();
        let kind = self.0.u8(..11);
        if kind == 0 {
            return ("GetItem", json!({ "TableName": table, "Key": { "key": { "S": key } }, "ConsistentRead": true }));
        }
        if kind == 10 {
            return ("Scan", self.scan(table, words));
        }
        let (update, update_ql) = if kind == 1 { Default::default() } else { self.update(&mut words) };
        let (condition, condition_ql) = self.condition(2, &mut words);
        if kind > 6 && !update_ql.is_empty() {
            // Parameters stand in the order of the text.
            let mut parameters = words.parameters;
            let assigned = update_ql.matches('?').count();
            parameters.insert(assigned, json!({ "S": key }));
            let text = format!("UPDATE \"{table}\"{update_ql} WHERE \"key\" = ? AND {condition_ql}");
            let statement = json!({ "Statement": text, "Parameters": parameters });
            return ("BatchExecuteStatement", json!({ "Statements": [statement] }));
        }
        if self.0.u8(..20) == 0 {
            words.values.insert(":unused".into(), json!({ "S": "x" }));
        }
        let mut body = json!({
            "TableName": table, "Key": { "key": { "S": key } }, "ConditionExpression": condition,
            "ExpressionAttributeNames": words.names,
        });
        if !words.values.is_empty() {
            body["ExpressionAttributeValues"] = json!(words.values);
        }
        if self.0.bool() {
            body["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD".into();
        }
        if kind == 1 || update.is_empty() {
            return ("DeleteItem", body);
        }
        body["UpdateExpression"] = update.trim_end().into();
        ("UpdateItem", body)
    }
}

impl Chance {
    fn scan(&mut self, table: &str, mut words: Words) -> Value {
        let (mut filter, _) = self.condition(2, &mut words);
        if self.0.bool() {
            let (key, _) = words.name("key");
            let prefix = words.value(json!({ "S": self.one(&["t", "two", "x"]) }));
            filter += &format!(" AND begins_with({key}, {prefix})");
        }
        let mut body =
            json!({ "TableName": table, "FilterExpression": filter, "ExpressionAttributeNames": words.names });
        if !words.values.is_empty() {
            body["ExpressionAttributeValues"] = json!(words.values);
        }
        body
    }
}

/// The placeholders of a request.
#[derive(Default)]
struct Words {
    names: BTreeMap<String, Value>,
    values: BTreeMap<String, Value>,
    parameters: Vec<Value>,
}

impl Words {
    /// As a placeholder, and quoted.
    fn name(&mut self, name: &str) -> (String, String) {
        let placeholder = format!("#{}", name.replace('.', "_"));
        self.names.insert(placeholder.clone(), name.into());
        (placeholder, format!("\"{name}\""))
    }

    fn value(&mut self, value: Value) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value.clone());
        self.parameters.push(value);
        placeholder
    }
}

#[test]
fn model_answers_random_requests_like_dynamodb_local() {
    let both = Both::new();
    let mut chance = Chance(fastrand::Rng::with_seed(4));
    for _ in 0..3_000 {
        let (operation, body) = chance.request(&both.table);
        both.call(operation, &body);
    }
    both.saw_each(50);
}

impl Exchange for Both {
    fn exchange(&self, operation: &str, body: &Value) -> (u16, Value) {
        self.call(operation, body)
    }
}

const TWO: NonZeroU16 = NonZeroU16::new(2).expect("it is not zero");

/// The lease, if the request was granted.
async fn asked(backend: &DynamoBackend, request: &AcquireRequest) -> Option<Lease> {
    match backend.acquire(request).await {
        Ok(AcquireOutcome::Granted(grant)) => Some(request.lease(grant.token)),
        _ => None,
    }
}

#[tokio::test]
async fn model_answers_the_backend_like_dynamodb_local() {
    let both = tokio::task::spawn_blocking(|| Arc::new(Both::new())).await.unwrap();
    let clients = [(); 3].map(|()| {
        let config = DynamoConfig::new(&both.table).skew_bound(Duration::from_millis(1));
        DynamoBackend::new(config).with_sdk_config(exchange::sdk_config(Arc::clone(&both) as Arc<dyn Exchange>))
    });
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut held, mut waiting): (Vec<(usize, Lease)>, Vec<_>) = Default::default();
    for _ in 0..1_000 {
        let client = rng.usize(..3);
        let backend = &clients[client];
        let name = LockName::new(["a", "b", "c"][rng.usize(..3)]).unwrap();
        match rng.u8(..16) {
            0..=4 => {
                let (id, data) = (LeaseId::random(), rng.bool().then(|| b"data".to_vec()));
                let ttl = Duration::from_millis(if rng.bool() { 1 } else { 60_000 });
                let mode = [Mode::Exclusive, Mode::Shared, Mode::Permit { of: TWO }][rng.usize(..3)];
                let (fair, waits) = (rng.bool(), rng.bool());
                let request = AcquireRequest::new(name, id, "test").with_ttl(ttl).with_data(data).with_mode(mode);
                let request = request.with_fair(fair).with_waits(waits).with_reserved_tokens(rng.u32(..2));
                let again = 1 + usize::from(rng.bool());
                for _ in 0..again {
                    held.extend(asked(backend, &request).await.map(|lease| (client, lease)));
                }
                waiting.extend(waits.then_some((client, request)));
            }
            5..=6 if !held.is_empty() => {
                let (client, lease) = &held[rng.usize(..held.len())];
                let _ = clients[*client].renew(lease).await.unwrap();
            }
            7 => {
                let mut leases: Vec<Lease> = Vec::new();
                for (_, lease) in held.iter().rev() {
                    if leases.iter().all(|other| other.name != lease.name) {
                        leases.push(lease.clone());
                    }
                }
                for answer in backend.renew_many(&leases).await {
                    let _ = answer.unwrap();
                }
            }
            8..=9 if !held.is_empty() => {
                let (client, lease) = held.swap_remove(rng.usize(..held.len()));
                let hold_for = Duration::from_millis(if rng.u8(..4) == 0 { 3 } else { 0 });
                let _ = clients[client].release(&lease, hold_for).await.unwrap();
            }
            10 => {
                if let Some(version) = backend.inspect(&name).await.unwrap().and_then(|holder| holder.version) {
                    let _ = backend.break_lock(&name, &version, "alice").await.unwrap();
                }
            }
            13..=14 if !waiting.is_empty() => {
                let (client, request) = waiting[rng.usize(..waiting.len())].clone();
                held.extend(asked(&clients[client], &request).await.map(|lease| (client, lease)));
            }
            15 if !waiting.is_empty() => {
                let (client, request) = waiting.swap_remove(rng.usize(..waiting.len()));
                let _ = clients[client].release(&request.lease(None), Duration::ZERO).await.unwrap();
            }
            11 => {
                let _ = backend.purge(&name).await.unwrap();
            }
            12 => {
                let prefix = ["", "a", "z"][rng.usize(..3)];
                let listed = backend.list(prefix).await.unwrap().locks;
                assert!(listed.iter().all(|(name, _)| name.as_str().starts_with(prefix)), "{prefix}: {listed:?}");
            }
            _ => {}
        }
    }
    both.saw_each(0);
}
