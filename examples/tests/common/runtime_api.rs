//! The Lambda Runtime API on loopback, for one instance of a function: the real service gives each instance its own, too.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>
#![allow(dead_code, reason = "the tests and the benchmark each use their part")]

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

/// What an instance answered to an event.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Response(Value),
    /// The message of its error.
    Error(String),
}

pub(crate) struct RuntimeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    outcomes: HashMap<String, Outcome>,
    /// When the instance first asked for an event, and when it first answered one.
    first_next: Option<Instant>,
    first_outcome: Option<Instant>,
}

struct Event {
    request_id: String,
    deadline: SystemTime,
    payload: Value,
}

impl RuntimeApi {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let api = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        api
    }

    /// The function `program` in the environment that Lambda gives it, with its lock in the store at `url`.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, url: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_LAMBDA_RUNTIME_API", self.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "report")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("LOCK_NAME", "nightly-report")
            .env("ONELOCK_URL", url);
        command
    }

    /// Hands an event to the instance; `left` is the invocation's time.
    pub(crate) fn invoke(&self, request_id: &str, payload: Value, left: Duration) {
        let event = Event { request_id: request_id.into(), deadline: SystemTime::now() + left, payload };
        self.shared.state.lock().unwrap().events.push_back(event);
        self.shared.changed.notify_all();
    }

    /// Takes the answer to an event, if there is one.
    pub(crate) fn take_outcome(&self, request_id: &str) -> Option<Outcome> {
        self.shared.state.lock().unwrap().outcomes.remove(request_id)
    }

    /// When the instance first asked for an event, and when it first answered one.
    pub(crate) fn times(&self) -> (Option<Instant>, Option<Instant>) {
        let state = self.shared.state.lock().unwrap();
        (state.first_next, state.first_outcome)
    }
}

/// One request, for the runtime's client opens a connection for each when it is told to.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = target.trim_start_matches("/2018-06-01/runtime/").split('/').collect::<Vec<_>>();
    let length =
        head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let (status, headers, answer) = match path.as_slice() {
        ["invocation", "next"] => next(shared),
        ["invocation", id, kind @ ("response" | "error")] => {
            let body: Value = serde_json::from_slice(&body).expect("answers are JSON");
            let outcome = match *kind {
                "response" => Outcome::Response(body),
                _ => Outcome::Error(body["errorMessage"].as_str().expect("errors have a message").into()),
            };
            let mut state = shared.state.lock().unwrap();
            state.first_outcome.get_or_insert_with(Instant::now);
            state.outcomes.insert((*id).into(), outcome);
            ("202 Accepted", String::new(), Value::Null)
        }
        _ => ("404 Not Found", String::new(), Value::Null),
    };
    let answer = answer.to_string();
    let length = answer.len();
    write!(&mut &*stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{answer}")
}

/// Waits for an event, for as long as the real one: until the instance is gone.
fn next(shared: &Shared) -> (&'static str, String, Value) {
    let mut state = shared.state.lock().unwrap();
    state.first_next.get_or_insert_with(Instant::now);
    let mut state = shared.changed.wait_while(state, |state| state.events.is_empty()).unwrap();
    let Event { request_id, deadline, payload } = state.events.pop_front().expect("waited for");
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let headers = format!(
        "Content-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: {request_id}\r\nLambda-Runtime-Deadline-Ms: {deadline}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-central-1:123456789012:function:report\r\n\
         Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n"
    );
    ("200 OK", headers, payload)
}
