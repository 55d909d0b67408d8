//! The mistakes that the server makes, each by a change of the backend's request or of its answer.

use std::cmp::Ordering;

use serde_json::{Value, json};
use test_support::sim::Mistake;

use super::{
    Write,
    expression::Condition,
    paths::{Path, Step},
};

/// Brings a mistake back by taking from the backend's request what keeps it from it.
pub(super) fn plant(mistake: Option<Mistake>, write: &mut Write) {
    let sets = |write: &Write, attribute: &str| write.update.set.iter().any(|(path, _)| path.is(attribute));
    match mistake {
        Some(Mistake::ReleaseWithoutComparison) if sets(write, "released") => {
            write.condition = Condition::Exists("version".into());
        }
        Some(Mistake::TokenInDeletedRecord) if sets(write, "released") => write.update.remove.push("fence".into()),
        // Only a grant to a single holder sets an owner.
        Some(Mistake::TakeoverWithoutVersion) if sets(write, "owner") => write.condition.replace(&|part| match part {
            Condition::Compare(path, [Ordering::Equal], _) if path.is("version") => {
                Some(Condition::Exists(path.clone()))
            }
            _ => None,
        }),
        Some(Mistake::IgnoresQueue) => write.condition.replace(&|part| match part {
            Condition::Missing(path) if path.attribute == "places" && path.steps == [Step::Element(0)] => {
                Some(Condition::Always)
            }
            _ => None,
        }),
        Some(Mistake::WriterAmongReaders) if sets(write, "owner") => {
            let among = Condition::All(vec![Condition::Exists("parts".into()), Condition::Missing("ttl_ms".into())]);
            write.condition = Condition::Any(vec![write.condition.clone(), among]);
        }
        Some(Mistake::OnePermitMore) => write.condition.replace(&|part| match part {
            Condition::Size(path, orders, most) if path.is("parts") => {
                Some(Condition::Size(path.clone(), orders, moved(most, 1)))
            }
            _ => None,
        }),
        Some(Mistake::ReleaseOfAllParts) => {
            for (path, value) in &mut write.update.set {
                // The release of a part that never arrived does not require it.
                if value["M"]["released"].is_object()
                    && write.condition.requires(path)
                    && let [Step::Field(id)] = &path.steps[..]
                {
                    *value = json!({ "M": { id: value } });
                    *path = Path::from("parts");
                }
            }
        }
        _ => {}
    }
}

/// Returns a number that is larger by `by`.
fn moved(number: &Value, by: i64) -> Value {
    let number: i64 = number["N"].as_str().and_then(|number| number.parse().ok()).expect("the backend sends a number");
    json!({ "N": (number + by).to_string() })
}

/// Says in a refusal whether the owner's lock is of this very acquisition: an attempt may begin
/// anew under another id, and then rightly meets what is left of the first.
pub(super) fn sign(mistake: Option<Mistake>, item: &mut Value, asked: &str) {
    let takes_for_foreign = mistake == Some(Mistake::OwnLockTakenForForeign);
    let reversed = |id: &str| id.chars().rev().collect::<String>();
    if let Some(parts) = item.get_mut("parts").and_then(|parts| parts["M"].as_object_mut()) {
        for (id, part) in parts.iter_mut().filter(|(id, _)| *id != asked) {
            sign_owner(&mut part["M"], id);
        }
        if takes_for_foreign && let Some(own) = parts.remove(asked) {
            parts.insert(reversed(asked), own);
        }
    }
    let Some((id, rest)) = item["version"]["S"].as_str().and_then(|version| version.split_once('.')) else { return };
    let (id, rest) = (id.to_owned(), rest.to_owned());
    if id != asked {
        sign_owner(item, &id);
    } else if takes_for_foreign {
        item["version"]["S"] = format!("{}.{rest}", reversed(&id)).into();
    }
}

/// Signs what a request that waits leaves in the item: there the store keeps its owner signed, and
/// a clause about it holds.
pub(super) fn sign_waiting(waiting: &mut Value) {
    let waiting = &mut waiting["M"];
    let id = waiting["version"]["S"].as_str().expect("it has an id").to_owned();
    sign_owner(waiting, &id);
}

fn sign_owner(of: &mut Value, id: &str) {
    if let Some(owner) = of["owner"]["S"].as_str() {
        of["owner"]["S"] = format!("{owner}, {id}").into();
    }
}
