//! Sends the requests of several tasks in one call of a script.
//!
//! A call costs the server more than what its script does for one lock. So requests that are made
//! at once, while another one is under way, share a call. None of them waits for a reply first.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared, join_all},
};
use lock_core::Error;
use redis::{Cmd, RedisError, RedisResult, Value};

use crate::{
    connection::{ConnectionSlot, is_dead},
    error::{Phase, translate, unexpected},
    script::{Call, Script, Scripts},
};

/// The most requests of one call. The server does nothing else for 4 µs or more for each of them.
const MOST: usize = 32;
/// The keys of each request.
const KEYS: usize = 3;

/// The requests of one kind that tasks of this process make at once.
#[derive(Debug)]
pub(crate) struct Batches {
    link: Link,
    under_way: AtomicUsize,
    gathering: Mutex<Option<Gathering>>,
}

/// Where the requests go.
#[derive(Debug, Clone)]
struct Link {
    connection: Arc<ConnectionSlot>,
    scripts: Arc<Scripts>,
    one: fn(&Scripts) -> &Script,
    many: fn(&Scripts) -> &Script,
}

/// A batch that has not been sent.
#[derive(Debug)]
struct Gathering {
    requests: Requests,
    is_full: bool,
    /// Weak, so that the batch ends with its last member.
    sending: WeakShared<BoxFuture<'static, Answers>>,
}

/// `None` once they are sent. A member that gives up takes its request away.
type Requests = Arc<Mutex<Option<Vec<Option<Request>>>>>;
type Answers = Arc<[Result<Value, Error>]>;

/// A call of the script that answers one request.
#[derive(Debug)]
struct Request {
    key: String,
    command: Cmd,
}

/// A request in a batch.
struct Member {
    requests: Requests,
    index: usize,
    /// Whether the batch is full with this request.
    fills: bool,
    sending: Shared<BoxFuture<'static, Answers>>,
}

/// Counts a request until its end.
struct UnderWay<'a>(&'a AtomicUsize);

impl Batches {
    /// Batches of requests that script `one` answers; script `many` answers several of them.
    pub(crate) fn new(
        connection: &Arc<ConnectionSlot>,
        scripts: &Arc<Scripts>,
        one: fn(&Scripts) -> &Script,
        many: fn(&Scripts) -> &Script,
    ) -> Self {
        let link = Link { connection: Arc::clone(connection), scripts: Arc::clone(scripts), one, many };
        Self { link, under_way: AtomicUsize::new(0), gathering: Mutex::default() }
    }

    /// Sends a request, alone or with others. A dropped request is not sent, or its reply is lost.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Value, Error> {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = UnderWay(&self.under_way);
        if others == 0 || self.link.connection.is_cluster() {
            return self.link.connection.run(&call).await;
        }
        // Boxed, to keep the future of a request that is alone small.
        Box::pin(async {
            if self.has_filled() {
                // The full batch leaves first: the server runs it while the next one is gathered.
                // It would answer both at once if they arrived together.
                tokio::task::yield_now().await;
            }
            self.join(call).answer().await
        })
        .await
    }

    fn has_filled(&self) -> bool {
        lock(&self.gathering).as_ref().is_some_and(|batch| batch.is_full)
    }

    fn join(&self, call: Call<'_>) -> Member {
        let request = Request { key: call.key.to_owned(), command: call.command };
        let mut gathering = lock(&self.gathering);
        if let Some(batch) = &mut *gathering
            && let Some(sending) = batch.sending.upgrade()
            && let Some(requests) = &mut *lock(&batch.requests)
            && requests.len() < MOST
            // The script reads the keys of all locks before it changes one.
            && requests.iter().flatten().all(|other| other.key != request.key)
        {
            requests.push(Some(request));
            batch.is_full = requests.len() == MOST;
            let (index, fills) = (requests.len() - 1, batch.is_full);
            return Member { requests: Arc::clone(&batch.requests), index, fills, sending };
        }
        let requests = Arc::new(Mutex::new(Some(vec![Some(request)])));
        let sending = self.link.clone().send(Arc::clone(&requests)).boxed().shared();
        let weak = sending.downgrade().expect("it has not been polled");
        *gathering = Some(Gathering { requests: Arc::clone(&requests), is_full: false, sending: weak });
        Member { requests, index: 0, fills: false, sending }
    }
}

impl Member {
    async fn answer(mut self) -> Result<Value, Error> {
        if !self.fills {
            // Tasks that are ready join. The first member that runs again sends the batch.
            tokio::task::yield_now().await;
        }
        let answers = (&mut self.sending).await;
        answers[self.index].clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(requests) = &mut *lock(&self.requests) {
            requests[self.index] = None;
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Sends the requests, and returns an answer for each place.
    async fn send(self, requests: Requests) -> Answers {
        let requests = lock(&requests).take().unwrap_or_default();
        let is_sent: Vec<_> = requests.iter().map(Option::is_some).collect();
        let mut answers = self.ask(&requests.into_iter().flatten().collect::<Vec<_>>()).await.into_iter();
        let mut answer = |is_sent: bool| is_sent.then(|| answers.next()).flatten().unwrap_or(Ok(Value::Nil));
        is_sent.into_iter().map(&mut answer).collect()
    }

    async fn ask(&self, requests: &[Request]) -> Vec<Result<Value, Error>> {
        let [first, _, ..] = requests else { return self.ask_each(requests).await };
        let calls: Vec<_> = requests.iter().map(|request| &request.command).collect();
        let call = (self.many)(&self.scripts).call_for_all(&first.key, KEYS, &calls);
        match self.connection.run_and_read(&call, of_each).await {
            Ok(answers) if answers.len() == requests.len() => answers,
            Ok(_) => vec![Err(unexpected("a script for several locks", &Value::Nil)); requests.len()],
            Err(error) if error.is_ambiguous() => vec![Err(error); requests.len()],
            // The server did nothing, perhaps because of one of the locks.
            Err(_) => self.ask_each(requests).await,
        }
    }

    async fn ask_each(&self, requests: &[Request]) -> Vec<Result<Value, Error>> {
        let script = (self.one)(&self.scripts);
        join_all(requests.iter().map(async |request| {
            let call = Call { script, key: &request.key, command: request.command.clone() };
            self.connection.run(&call).await
        }))
        .await
    }
}

/// Reads an answer or an error for each lock.
fn of_each(answers: Value) -> RedisResult<Vec<Result<Value, Error>>> {
    let Value::Array(answers) = answers else { return Ok(Vec::new()) };
    let each = |answer| match failure(&answer) {
        None => Ok(Ok(answer)),
        Some(error) if is_dead(&error) => Err(error),
        Some(error) => Ok(Err(translate(error, Phase::Request))),
    };
    answers.into_iter().map(each).collect()
}

/// Reads the error with which the script failed for one lock.
pub(crate) fn failure(answer: &Value) -> Option<RedisError> {
    let Value::Array(items) = answer else { return None };
    let [Value::Int(10), Value::BulkString(message)] = &items[..] else { return None };
    // As the server would have sent it.
    let message = String::from_utf8_lossy(message).replace(['\r', '\n'], " ");
    let reply = format!("-{}\r\n", message.trim_start_matches('-'));
    redis::parse_redis_value(reply.as_bytes()).and_then(Value::extract_error).err()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
