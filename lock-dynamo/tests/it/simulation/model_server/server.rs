//! The model as the server of a simulation: it fails now and then, and makes the mistakes that it
//! is told to.

use std::{cell::RefCell, cmp::Ordering, time::Duration};

use serde_json::{Value, json};
use test_support::sim::{
    Mistake,
    real::{Answer, Call, Server, Trouble},
};

use super::{Table, Write, expression::Condition};

/// One table with the keys of the native schema.
#[derive(Debug)]
pub(crate) struct DynamoServer {
    table: Table,
    mistake: Option<Mistake>,
}

impl DynamoServer {
    /// With an empty table.
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self { table: Table::new(&["key"]), mistake }
    }
}

/// Brings a mistake back by taking from the backend's request what keeps it from it.
fn plant(mistake: Option<Mistake>, write: &mut Write) {
    let releases = write.update.set.iter().any(|(name, _)| name == "released");
    match mistake {
        Some(Mistake::ReleaseWithoutComparison) if releases => write.condition = Condition::Exists("version".into()),
        Some(Mistake::TokenInDeletedRecord) if releases => write.update.remove.push("fence".into()),
        Some(Mistake::TakeoverWithoutVersion) => write.condition.replace(&|part| match part {
            Condition::Compare(name, [Ordering::Equal], _) if name == "version" => {
                Some(Condition::Exists(name.clone()))
            }
            _ => None,
        }),
        _ => {}
    }
}

/// Says in a refusal whether the owner's lock is of this very acquisition: an attempt may begin
/// anew under another id, and then rightly meets what is left of the first.
fn sign(mistake: Option<Mistake>, item: &mut Value, asked: &str) {
    let Some((id, rest)) = item["version"]["S"].as_str().and_then(|version| version.split_once('.')) else { return };
    if id != asked {
        let owner = format!("{}, {id}", item["owner"]["S"].as_str().unwrap_or_default());
        item["owner"]["S"] = owner.into();
    } else if mistake == Some(Mistake::OwnLockTakenForForeign) {
        let other: String = id.chars().rev().collect();
        item["version"]["S"] = format!("{other}.{rest}").into();
    }
}

impl Server for DynamoServer {
    fn handle(&mut self, at: Duration, call: &Call, trouble: Option<Trouble>) -> Answer {
        let error =
            |status, code: &str| Answer { at, status, body: json!({ "__type": code, "message": "" }).to_string() };
        self.table.collect(Answer { at, status: 200, body: String::new() }.date());
        match trouble {
            Some(Trouble::Throttled) => return error(400, "ProvisionedThroughputExceededException"),
            Some(Trouble::FailedBefore) => return error(500, "InternalServerError"),
            Some(Trouble::FailedAfter) | None => {}
        }
        let body: Value = serde_json::from_str(&call.body).expect("the SDK sends JSON");
        let asked = RefCell::new(String::new());
        let mistake = self.mistake;
        let (status, mut body) = self.table.call(&call.operation, &body, &|write| {
            let version = write.update.set.iter().find(|(name, _)| name == "version");
            let version = version.and_then(|(_, value)| value["S"].as_str()).unwrap_or_default();
            *asked.borrow_mut() = version.split('.').next().unwrap_or_default().to_owned();
            plant(mistake, write);
        });
        if trouble.is_some() {
            return error(500, "InternalServerError");
        }
        if let Some(item) = body.get_mut("Item") {
            sign(mistake, item, &asked.borrow());
        }
        Answer { at, status, body: body.to_string() }
    }
}
