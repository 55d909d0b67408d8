//! The requests of a client: parsed from lines of JSON before anything is done.

use std::{num::NonZeroU16, time::Duration};

use lock_core::{LockName, Mode, Renew};
use serde_json::{Map, Value};

use crate::seconds::seconds;

/// One request. Its id is repeated in the reply.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: Value,
    pub(crate) operation: Operation,
}

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Operation {
    Acquire(Box<Wish>),
    /// Ends the acquisition of the request with this id.
    Cancel(Value),
    Release(u64),
    Check(u64),
    Ensure(u64, Duration),
    Status(LockName),
    List(String),
    Break {
        name: LockName,
        version: String,
        by: Option<String>,
    },
    Ping,
}

impl Operation {
    /// The name of the lock, if the operation is about one that is not held by the client.
    pub(crate) fn name(&self) -> Option<&LockName> {
        match self {
            Self::Acquire(wish) => Some(&wish.name),
            Self::Status(name) | Self::Break { name, .. } => Some(name),
            Self::Cancel(_) | Self::Release(_) | Self::Check(_) | Self::Ensure(..) | Self::List(_) | Self::Ping => None,
        }
    }
}

/// The lock that a client wants. `None` stands for the default of the command line or the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    pub(crate) name: LockName,
    /// How long to wait: zero tries once, `None` waits without a limit.
    pub(crate) wait: Option<Duration>,
    pub(crate) mode: Option<Mode>,
    pub(crate) fair: Option<bool>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) margin: Option<Duration>,
    pub(crate) renew: Option<Renew>,
    pub(crate) grace: Option<Duration>,
    pub(crate) owner: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) min_hold: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
}

/// A line that is no request: the id, as far as it can be read, and the reason.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) id: Value,
    pub(crate) message: String,
}

/// Parses a line.
///
/// # Errors
/// If it is not an object, or the operation or a field of it is missing, wrong or unknown. An
/// ignored `max_hold` of a misspelt name would be a promise that is not kept.
pub(crate) fn parse(line: &str) -> Result<Request, Refusal> {
    let refuse = |id: &Value, message: String| Refusal { id: id.clone(), message };
    let fields = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Fields(fields),
        Ok(_) => {
            return Err(refuse(&Value::Null, "a request is a JSON object, such as {\"id\":1,\"op\":\"ping\"}".into()));
        }
        Err(error) => return Err(refuse(&Value::Null, format!("this line is not JSON: {error}"))),
    };
    let id = match fields.get("id") {
        Some(id @ (Value::Number(_) | Value::String(_))) => id.clone(),
        _ => return Err(refuse(&Value::Null, "\"id\" must be a number or a string, which the reply repeats".into())),
    };
    match operation(&fields) {
        Ok(operation) => Ok(Request { id, operation }),
        Err(message) => Err(refuse(&id, message)),
    }
}

/// The operations, with their fields besides `id` and `op`.
const OPERATIONS: [(&str, &[&str]); 9] = [
    (
        "acquire",
        &[
            "name", "wait", "mode", "permits", "fair", "ttl", "margin", "renew", "grace", "owner", "data", "min_hold",
            "max_hold", "deadline",
        ],
    ),
    ("cancel", &["request"]),
    ("release", &["guard"]),
    ("check", &["guard"]),
    ("ensure", &["guard", "at_least"]),
    ("status", &["name"]),
    ("list", &["prefix"]),
    ("break", &["name", "version", "by"]),
    ("ping", &[]),
];

fn operation(fields: &Fields) -> Result<Operation, String> {
    let op = fields.text("op")?;
    fields.must_be_of(&op)?;
    Ok(match op.as_str() {
        "acquire" => Operation::Acquire(Box::new(wish(fields)?)),
        "cancel" => match fields.get("request") {
            Some(request) => Operation::Cancel(request.clone()),
            None => return Err("\"request\" is missing: the id of the acquisition to cancel".into()),
        },
        "release" => Operation::Release(fields.guard()?),
        "check" => Operation::Check(fields.guard()?),
        "ensure" => {
            let at_least = fields.seconds("at_least")?;
            Operation::Ensure(fields.guard()?, at_least.ok_or("\"at_least\" is missing: a number of seconds")?)
        }
        "status" => Operation::Status(fields.name()?),
        "list" => Operation::List(fields.optional_text("prefix")?.unwrap_or_default()),
        "break" => {
            Operation::Break { name: fields.name()?, version: fields.text("version")?, by: fields.optional_text("by")? }
        }
        "ping" => Operation::Ping,
        unknown => {
            let known = OPERATIONS.map(|(op, _)| op).join(", ");
            return Err(format!("there is no operation \"{}\"; there are: {known}", unknown.escape_debug()));
        }
    })
}

fn wish(fields: &Fields) -> Result<Wish, String> {
    Ok(Wish {
        name: fields.name()?,
        wait: fields.seconds("wait")?,
        mode: fields.mode()?,
        fair: fields.flag("fair")?,
        ttl: fields.seconds("ttl")?,
        margin: fields.seconds("margin")?,
        renew: fields.renew()?,
        grace: fields.seconds("grace")?,
        owner: fields.optional_text("owner")?,
        data: fields.optional_text("data")?,
        min_hold: fields.seconds("min_hold")?,
        max_hold: fields.seconds("max_hold")?,
        deadline: fields.seconds("deadline")?,
    })
}

struct Fields(Map<String, Value>);

impl Fields {
    /// Refuses a field that the operation `op` does not have.
    fn must_be_of(&self, op: &str) -> Result<(), String> {
        let Some((_, known)) = OPERATIONS.iter().find(|(name, _)| *name == op) else { return Ok(()) };
        let mut unknown = self.0.keys().filter(|field| !["id", "op"].contains(&field.as_str()));
        match unknown.find(|field| !known.contains(&field.as_str())) {
            None => Ok(()),
            Some(field) => {
                let known = [&["id", "op"], *known].concat().join(", ");
                Err(format!("\"{op}\" has no field \"{}\"; it has: {known}", field.escape_debug()))
            }
        }
    }

    /// Returns a field; `None` if it is missing or null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn optional_text(&self, field: &str) -> Result<Option<String>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("\"{field}\" must be a string")),
        }
    }

    fn text(&self, field: &str) -> Result<String, String> {
        self.optional_text(field)?.ok_or_else(|| format!("\"{field}\" is missing: a string"))
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(format!("\"{field}\" must be true or false")),
        }
    }

    fn seconds(&self, field: &str) -> Result<Option<Duration>, String> {
        let wrong = |problem: &str| format!("\"{field}\" must be a number of seconds{problem}");
        match self.get(field) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_f64().ok_or_else(|| wrong(""))?;
                seconds(number).map(Some).map_err(|problem| wrong(&format!(": {problem}")))
            }
        }
    }

    fn renew(&self) -> Result<Option<Renew>, String> {
        match self.get("renew") {
            None => Ok(None),
            Some(Value::String(text)) if text == "auto" => Ok(Some(Renew::Auto)),
            Some(Value::String(text)) if text == "manual" => Ok(Some(Renew::Manual)),
            Some(Value::Number(_)) => Ok(self.seconds("renew")?.map(Renew::Every)),
            Some(_) => Err("\"renew\" must be \"auto\", \"manual\" or a number of seconds".into()),
        }
    }

    fn mode(&self) -> Result<Option<Mode>, String> {
        let of = match self.get("permits") {
            None => None,
            Some(value) => {
                let of = value.as_u64().and_then(|of| u16::try_from(of).ok()).and_then(NonZeroU16::new);
                Some(of.ok_or("\"permits\" must be a number from 1 to 65535")?)
            }
        };
        match (self.optional_text("mode")?.as_deref(), of) {
            (None | Some("permit"), Some(of)) => Ok(Some(Mode::Permit { of })),
            (None, None) => Ok(None),
            (Some("exclusive"), None) => Ok(Some(Mode::Exclusive)),
            (Some("shared"), None) => Ok(Some(Mode::Shared)),
            (Some("permit"), None) => Err("\"permits\" is missing: a number from 1 to 65535".into()),
            (Some("exclusive" | "shared"), Some(_)) => Err("\"permits\" goes with \"mode\":\"permit\" only".into()),
            (Some(_), _) => Err("\"mode\" must be \"exclusive\", \"shared\" or \"permit\"".into()),
        }
    }

    fn guard(&self) -> Result<u64, String> {
        let guard = self.get("guard").and_then(Value::as_u64);
        guard.ok_or_else(|| "\"guard\" must be the number in the reply to the acquisition".into())
    }

    fn name(&self) -> Result<LockName, String> {
        LockName::new(self.text("name")?).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_is_parsed_with_its_fields() {
        let x = || LockName::new("x").unwrap();
        let wish = Wish {
            name: x(),
            wait: None,
            mode: None,
            fair: None,
            ttl: None,
            margin: None,
            renew: None,
            grace: None,
            owner: None,
            data: None,
            min_hold: None,
            max_hold: None,
            deadline: None,
        };
        let seconds = |s| Some(Duration::from_secs(s));
        let full = Wish {
            wait: Some(Duration::ZERO),
            fair: Some(true),
            ttl: Some(Duration::from_millis(1500)),
            margin: seconds(2),
            renew: Some(Renew::Every(Duration::from_secs(3))),
            grace: seconds(4),
            owner: Some("o".into()),
            data: Some("d".into()),
            min_hold: seconds(5),
            max_hold: seconds(6),
            deadline: seconds(7),
            ..wish.clone()
        };
        let in_mode = |mode| Operation::Acquire(Box::new(Wish { mode: Some(mode), ..wish.clone() }));
        let four = Mode::Permit { of: NonZeroU16::new(4).unwrap() };
        let shared = in_mode(Mode::Shared);
        let exclusive = in_mode(Mode::Exclusive);
        let (permit, short_permit) = (in_mode(four), in_mode(four));
        let manual = Wish { renew: Some(Renew::Manual), ..wish.clone() };
        for (line, operation) in [
            (json!({"op": "acquire", "name": "x"}), Operation::Acquire(Box::new(wish.clone()))),
            (json!({"op": "acquire", "name": "x", "wait": null}), Operation::Acquire(Box::new(wish))),
            (
                json!({"op": "acquire", "name": "x", "wait": 0, "ttl": 1.5, "margin": 2, "renew": 3, "grace": 4,
                    "owner": "o", "data": "d", "min_hold": 5, "max_hold": 6, "deadline": 7, "fair": true}),
                Operation::Acquire(Box::new(full)),
            ),
            (json!({"op": "acquire", "name": "x", "mode": "shared"}), shared),
            (json!({"op": "acquire", "name": "x", "mode": "exclusive", "permits": null}), exclusive),
            (json!({"op": "acquire", "name": "x", "mode": "permit", "permits": 4}), permit),
            (json!({"op": "acquire", "name": "x", "permits": 4}), short_permit),
            (json!({"op": "acquire", "name": "x", "renew": "manual"}), Operation::Acquire(Box::new(manual))),
            (json!({"op": "cancel", "request": 1}), Operation::Cancel(json!(1))),
            (json!({"op": "release", "guard": 7}), Operation::Release(7)),
            (json!({"op": "check", "guard": 7}), Operation::Check(7)),
            (json!({"op": "ensure", "guard": 7, "at_least": 0.5}), Operation::Ensure(7, Duration::from_millis(500))),
            (json!({"op": "status", "name": "x"}), Operation::Status(x())),
            (json!({"op": "list"}), Operation::List(String::new())),
            (json!({"op": "list", "prefix": "a/"}), Operation::List("a/".into())),
            (
                json!({"op": "break", "name": "x", "version": "v"}),
                Operation::Break { name: x(), version: "v".into(), by: None },
            ),
            (json!({"op": "ping"}), Operation::Ping),
        ] {
            let mut line = line;
            line["id"] = json!("a");
            assert_eq!(parse(&line.to_string()), Ok(Request { id: json!("a"), operation }), "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_refused_with_its_id() {
        for (line, id, words) in [
            ("", json!(null), "not JSON"),
            ("\u{0}", json!(null), "not JSON"),
            ("[1]", json!(null), "a request is a JSON object"),
            ("{}", json!(null), "\"id\" must be"),
            (r#"{"id":[1],"op":"ping"}"#, json!(null), "\"id\" must be"),
            (r#"{"id":1}"#, json!(1), "\"op\" is missing"),
            (r#"{"id":1,"op":7}"#, json!(1), "\"op\" must be a string"),
            (r#"{"id":"q","op":"aquire"}"#, json!("q"), "no operation \"aquire\"; there are: acquire"),
            (r#"{"id":1,"op":"acquire"}"#, json!(1), "\"name\" is missing"),
            (r#"{"id":1,"op":"acquire","name":""}"#, json!(1), "name"),
            (r#"{"id":1,"op":"acquire","name":"x","wait":-1}"#, json!(1), "\"wait\" must be a number of seconds"),
            (r#"{"id":1,"op":"acquire","name":"x","ttl":"30s"}"#, json!(1), "\"ttl\" must be a number of seconds"),
            (r#"{"id":1,"op":"acquire","name":"x","ttl":1e300}"#, json!(1), "\"ttl\" must be a number of seconds"),
            (r#"{"id":1,"op":"acquire","name":"x","renew":"daily"}"#, json!(1), "\"renew\" must be"),
            (r#"{"id":1,"op":"acquire","name":"x","mode":"read"}"#, json!(1), "\"mode\" must be"),
            (r#"{"id":1,"op":"acquire","name":"x","mode":"permit"}"#, json!(1), "\"permits\" is missing"),
            (r#"{"id":1,"op":"acquire","name":"x","permits":0}"#, json!(1), "from 1 to 65535"),
            (r#"{"id":1,"op":"acquire","name":"x","mode":"shared","permits":2}"#, json!(1), "\"permits\" goes with"),
            (r#"{"id":1,"op":"acquire","name":"x","fair":1}"#, json!(1), "\"fair\" must be true or false"),
            (
                r#"{"id":1,"op":"acquire","name":"x","waits":0}"#,
                json!(1),
                "no field \"waits\"; it has: id, op, name, wait,",
            ),
            (r#"{"id":1,"op":"acquire","name":"x","shared":null}"#, json!(1), "\"acquire\" has no field \"shared\""),
            (r#"{"id":1,"op":"ping","guard":1}"#, json!(1), "\"ping\" has no field \"guard\"; it has: id, op"),
            (r#"{"id":1,"op":"release","guard":-1}"#, json!(1), "\"guard\" must be"),
            (r#"{"id":1,"op":"ensure","guard":1}"#, json!(1), "\"at_least\" is missing"),
            (r#"{"id":1,"op":"cancel"}"#, json!(1), "\"request\" is missing"),
            (r#"{"id":1,"op":"break","name":"x"}"#, json!(1), "\"version\" is missing"),
        ] {
            let refusal = parse(line).unwrap_err();
            assert_eq!(refusal.id, id, "{line}");
            assert!(refusal.message.contains(words), "{line}: {}", refusal.message);
        }
    }
}
