//! A model of S3: one bucket, conditional writes, and several servers whose clocks differ.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::{Method, Response};
use http_body_util::BodyExt as _;
use object_store::client::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use test_support::sim::{
    Mistake,
    real::{Answer, Call, Server, Trouble},
};

/// How far the clocks of the servers differ.
pub(crate) const SKEW: Duration = Duration::from_secs(1);
/// A lease id that no client has.
pub(crate) const FOREIGN: &str = "ffffffffffffffffffffffffffffffff";
/// The answer to a write whose condition does not hold.
const REFUSED: (u16, &str) = (412, "PreconditionFailed");

/// One bucket, and the servers in front of it.
#[derive(Debug)]
pub(crate) struct Bucket {
    objects: BTreeMap<String, Object>,
    mistake: Option<Mistake>,
    /// Chooses the server of each request.
    rng: fastrand::Rng,
}

#[derive(Debug, Clone)]
struct Object {
    body: String,
    etag: String,
    modified: i64,
}

impl Bucket {
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self { objects: BTreeMap::new(), mistake, rng: fastrand::Rng::with_seed(0) }
    }

    /// Answers a request at the time `date` of a server, with a status and what the headers and the
    /// body are made of.
    fn answer(&mut self, method: &str, call: &Value, date: i64) -> (u16, Value) {
        let path = call["path"].as_str().expect("every request has a path");
        match method {
            "GET" => self.get(path, call["asked"].as_str().unwrap_or_default()),
            "PUT" => self.put(path, call, date),
            other => unreachable!("no lock needs {other}"),
        }
    }

    fn get(&self, path: &str, asked: &str) -> (u16, Value) {
        let Some(Object { body, etag, modified }) = self.objects.get(path) else {
            return (404, json!({ "code": "NoSuchKey" }));
        };
        let mut body = body.clone();
        if self.mistake == Some(Mistake::OwnLockTakenForForeign) && id_in(&body).is_some_and(|id| id == asked) {
            body = body.replace(asked, FOREIGN);
        }
        (200, json!({ "etag": etag, "modified": modified, "body": body }))
    }

    fn put(&mut self, path: &str, call: &Value, date: i64) -> (u16, Value) {
        let body = call["body"].as_str().expect("a write has a body").to_owned();
        let found = self.objects.get(path);
        let refusal = match (call["if_match"].as_str(), found) {
            (Some(_), None) => Some((404, "NoSuchKey")),
            (Some(wanted), Some(found)) => (found.etag != wanted && !self.ignores(found, &body)).then_some(REFUSED),
            (None, Some(_)) if call["if_none_match"] == "*" => Some(REFUSED),
            (None, _) => None,
        };
        if let Some((status, code)) = refusal {
            return (status, json!({ "code": code }));
        }
        let etag = etag(&body);
        let is_release = id_in(&body).is_none() && path.ends_with(".lock");
        if self.mistake == Some(Mistake::TokenInDeletedRecord) && is_release {
            self.objects.remove(path);
        } else {
            self.objects.insert(path.to_owned(), Object { body, etag: etag.clone(), modified: date });
        }
        (200, json!({ "etag": etag }))
    }

    /// Whether the planted mistake lets a write replace an object of another version.
    fn ignores(&self, found: &Object, body: &str) -> bool {
        match (self.mistake, id_in(body)) {
            (Some(Mistake::ReleaseWithoutComparison), None) => true,
            (Some(Mistake::TakeoverWithoutVersion), Some(id)) => id_in(&found.body).as_deref() != Some(&*id),
            _ => false,
        }
    }
}

impl Server for Bucket {
    fn handle(&mut self, at: Duration, call: &Call, trouble: Option<Trouble>) -> Answer {
        let clock = SKEW.mul_f64(f64::from(self.rng.u8(..3)) / 2.0);
        let date = Answer { at: at + clock, status: 0, body: String::new() }.date();
        let (status, mut body) = match (trouble, &*call.operation) {
            (Some(Trouble::Throttled), _) => (503, json!({ "code": "SlowDown" })),
            (Some(Trouble::FailedBefore), "PUT") => (409, json!({ "code": "ConditionalRequestConflict" })),
            (Some(Trouble::FailedBefore), _) => (500, json!({ "code": "InternalError" })),
            (Some(Trouble::FailedAfter) | None, method) => {
                let call = serde_json::from_str(&call.body).expect("the client sends JSON");
                let answer = self.answer(method, &call, date);
                if trouble.is_some() { (500, json!({ "code": "InternalError" })) } else { answer }
            }
        };
        body["date"] = date.into();
        Answer { at, status, body: body.to_string() }
    }
}

/// As on S3, where it is the MD5 of the body: equal bodies have equal tags.
fn etag(body: &str) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// The lease in a record.
fn id_in(body: &str) -> Option<String> {
    let record: Value = serde_json::from_str(body).ok()?;
    record["id"].as_str().map(str::to_owned)
}

/// The request on the simulated network, of the acquisition `asked`.
pub(crate) async fn call(request: HttpRequest, asked: String) -> Call {
    let (parts, body) = request.into_parts();
    assert!(matches!(parts.method, Method::GET | Method::PUT), "{}", parts.method);
    let body = body.collect().await.expect("it is in memory").to_bytes();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let call = json!({
        "path": parts.uri.path(),
        "if_match": header("if-match"),
        "if_none_match": header("if-none-match"),
        "body": String::from_utf8_lossy(&body),
        "asked": asked,
    });
    Call { operation: parts.method.to_string(), body: call.to_string() }
}

/// The reply that S3 would send.
pub(crate) fn response(answer: &Answer) -> HttpResponse {
    let made: Value = serde_json::from_str(&answer.body).expect("the model sends JSON");
    let date = |seconds: &Value| {
        let seconds = seconds.as_u64().expect("the model's times are after 1970");
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let mut response = Response::builder().status(answer.status).header("date", date(&made["date"]));
    if let Some(etag) = made["etag"].as_str() {
        response = response.header("etag", etag);
    }
    if made["modified"].is_u64() {
        response = response.header("last-modified", date(&made["modified"]));
    }
    let body = match made["code"].as_str() {
        Some(code) => format!("<Error><Code>{code}</Code></Error>"),
        None => made["body"].as_str().unwrap_or_default().to_owned(),
    };
    response.header("content-length", body.len()).body(body.into_bytes().into()).expect("a good response")
}
