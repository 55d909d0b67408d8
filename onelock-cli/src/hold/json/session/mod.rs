//! The session with one client: its guards, the acquisitions in progress, and what it is told.

mod acquisitions;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lock_core::{Locker, LossReason, LossSignal, Mode};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    held::Command,
    objects,
    request::{Operation, Refusal},
    streams::Output,
};
use crate::{
    args::OnLoss, hold::client::Client, operators, run::process_tree::Family, runtime::on_thread, target::Names,
};

/// The number of ends that are remembered, so that a repeated release gets the same answer. Ends by
/// a successful release need no memory.
const MOST_ENDED: usize = 10_000;

/// What the command line says about every lock of the session.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) mode: Mode,
    pub(super) fair: bool,
    pub(super) spread: Option<Duration>,
    pub(super) ttl: Option<Duration>,
    pub(super) grace: Option<Duration>,
    pub(super) min_hold: Option<Duration>,
    pub(super) max_hold: Option<Duration>,
    pub(super) owner: Option<String>,
    pub(super) on_loss: OnLoss,
}

/// The end of a guard that was not a successful release.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    /// With the object of the loss.
    Lost(Value),
    /// The release failed, with this error; it goes on in the background.
    Failed(Value),
}

pub(super) struct Session {
    locker: Locker,
    client: Arc<Client>,
    defaults: Defaults,
    output: Output,
    names: Names,
    state: Mutex<State>,
    /// The descendants of the client, which was asked to end because a lock is about to end. Locked
    /// meanwhile: the end of the client is then seen only with its family known.
    stopped: tokio::sync::Mutex<Family>,
}

/// A guard, which its task owns.
struct Kept {
    commands: UnboundedSender<Command>,
    signal: LossSignal,
}

struct State {
    guards: HashMap<u64, Kept>,
    last_guard: u64,
    ended: BTreeMap<u64, Ended>,
    /// The acquisitions in progress, by the text of the request's id. Dropping one cancels it.
    pending: HashMap<String, oneshot::Sender<()>>,
    tasks: JoinSet<()>,
    /// The last ping, or the acquisition of the first guard.
    last_sign: Instant,
}

impl Session {
    pub(super) fn new(
        locker: Locker,
        client: Arc<Client>,
        defaults: Defaults,
        output: Output,
        names: Names,
    ) -> Arc<Self> {
        let state = State {
            guards: HashMap::new(),
            last_guard: 0,
            ended: BTreeMap::new(),
            pending: HashMap::new(),
            tasks: JoinSet::new(),
            last_sign: Instant::now(),
        };
        Arc::new(Self {
            locker,
            client,
            defaults,
            output,
            names,
            state: Mutex::new(state),
            stopped: tokio::sync::Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what a line asks for. The reply comes when it is done.
    pub(super) fn handle(self: &Arc<Self>, line: Result<String, String>) {
        let parsed =
            line.map_err(|message| Refusal { id: Value::Null, message }).and_then(|line| super::request::parse(&line));
        let request = match parsed {
            Ok(request) => request,
            Err(Refusal { id, message }) => return self.reply_error(&id, &objects::refusal("protocol", &message)),
        };
        let id = request.id;
        if let Err(message) = request.operation.name().map_or(Ok(()), |name| self.names.check(name)) {
            return self.reply_error(&id, &objects::refusal("protocol", &message));
        }
        match request.operation {
            Operation::Acquire(wish) => self.acquire(id, *wish),
            Operation::Cancel(request) => {
                let cancelled = self.state().pending.remove(&request.to_string()).is_some();
                self.reply(&id, &json!({ "cancelled": cancelled }));
            }
            Operation::Release(guard) => self.ask(guard, Command::Release(id)),
            Operation::Check(guard) => self.ask(guard, Command::Check(id)),
            Operation::Ensure(guard, at_least) => self.ask(guard, Command::Ensure(id, at_least)),
            Operation::Ping => {
                self.state().last_sign = Instant::now();
                self.reply(&id, &json!({}));
            }
            question => self.spawn(Arc::clone(self).ask_store(id, question)),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn(task);
    }

    /// Answers an operator's question.
    async fn ask_store(self: Arc<Self>, id: Value, question: Operation) {
        let admin = self.locker.admin();
        let answer = match &question {
            Operation::Status(name) => {
                admin.inspect(name.as_str()).await.map(|holder| operators::json(name, holder.as_ref()))
            }
            Operation::List(prefix) => admin.list(prefix).await.map(|listing| objects::list(&listing)),
            Operation::Break { name, version, by } => {
                let outcome = operators::break_version(&self.locker, name, version, by.clone()).await;
                outcome.map(|outcome| objects::broken(name, &outcome))
            }
            // `handle` deals with the others itself.
            _ => return,
        };
        match answer {
            Ok(answer) => self.reply(&id, &answer),
            Err(error) => self.reply_error(&id, &objects::error(&error)),
        }
    }
}

/// Guards.
impl Session {
    fn ask(&self, number: u64, command: Command) {
        let commands = self.state().guards.get(&number).map(|guard| guard.commands.clone());
        let refused = match commands {
            Some(commands) => commands.send(command).err().map(|refused| refused.0),
            None => Some(command),
        };
        if let Some(command) = refused {
            self.answer_ended(number, command);
        }
    }

    /// Answers a command to a guard that has ended, or never was.
    pub(super) fn answer_ended(&self, number: u64, command: Command) {
        let (known, ended) = {
            let state = self.state();
            ((1..=state.last_guard).contains(&number), state.ended.get(&number).cloned())
        };
        let id = match &command {
            Command::Check(id) | Command::Ensure(id, _) | Command::Release(id) => id,
            Command::End(_) => return,
        };
        if !known {
            let message = format!("there is no guard {number}");
            return self.reply_error(id, &objects::refusal("protocol", &message));
        }
        match command {
            Command::Release(_) => self.reply_released(id, ended.as_ref()),
            _ => {
                let released = || json!({ "reason": "released", "message": "this guard released it" });
                let lost = match ended {
                    Some(Ended::Lost(lost)) => lost,
                    Some(Ended::Failed(_)) | None => released(),
                };
                self.reply(id, &objects::not_held(&lost));
            }
        }
    }

    /// Removes a guard, and remembers why it ended if it was not by a successful release.
    pub(super) fn note_end(&self, number: u64, ended: Option<Ended>) {
        let mut state = self.state();
        state.guards.remove(&number);
        if let Some(ended) = ended {
            state.ended.insert(number, ended);
        }
        if state.ended.len() > MOST_ENDED {
            state.ended.pop_first();
        }
    }

    /// Tells the client that its work has to stop, and asks it to end if that was chosen.
    pub(super) async fn stop(&self, number: u64) {
        self.output.send(&objects::stopping(number));
        if self.defaults.on_loss == OnLoss::Term {
            let mut stopped = self.stopped.lock().await;
            let family = self.with_client(Client::terminate).await;
            let is_first = self.held(Some(number)).iter().all(|signal| !signal.is_stopping());
            // The locks of an earlier family were released or renewed.
            if is_first {
                *stopped = Family::default();
            }
            stopped.add(family);
        }
    }

    /// Tells the client of a loss, and ends it if that was chosen.
    pub(super) async fn lose(&self, number: u64, lost: &Value) {
        self.output.send(&objects::lost_event(number, lost));
        if self.defaults.on_loss != OnLoss::Tell {
            let family = self.stopped.lock().await.clone();
            self.with_client(move |client| client.kill(&family)).await;
        }
    }

    /// Waits for the descendants of a client that has ended because it was asked to, and kills them
    /// before the end of the lock. Until then no lock may be released.
    async fn outlive_client(&self) {
        let family = self.stopped.lock().await.clone();
        let signals = self.held(None);
        // The client may have released its locks before it ended, or they were renewed after all.
        if !signals.iter().any(LossSignal::is_stopping) {
            return;
        }
        let left = signals.iter().filter_map(LossSignal::remaining).min().unwrap_or_default();
        // A file is unlocked at the very end of its lock, and a kill takes a moment.
        let wait = left * 3 / 4;
        let outlive = move |client: &Client| {
            family.wait(wait);
            client.kill_family(&family);
        };
        self.with_client(outlive).await;
    }

    /// Returns the signals of the guards that the client has not released, except one.
    fn held(&self, except: Option<u64>) -> Vec<LossSignal> {
        let is_released = |signal: &LossSignal| signal.check().is_err_and(|lost| lost.reason == LossReason::Released);
        let state = self.state();
        let guards = state.guards.iter().filter(|(number, _)| Some(**number) != except);
        guards.map(|(_, guard)| guard.signal.clone()).filter(|signal| !is_released(signal)).collect()
    }

    /// Calls `work` in a thread, because the locks must be renewed meanwhile.
    async fn with_client<T: Send + 'static>(&self, work: impl Fn(&Client) -> T + Clone + Send + 'static) -> T {
        let (client, in_thread) = (Arc::clone(&self.client), work.clone());
        on_thread(move || in_thread(&client)).await.unwrap_or_else(|_| work(&self.client))
    }
}

/// What the client reads.
impl Session {
    pub(super) fn reply(&self, id: &Value, answer: &Value) {
        self.output.send(&objects::ok(id, answer));
    }

    pub(super) fn reply_error(&self, id: &Value, error: &Value) {
        self.output.send(&objects::failed(id, error));
    }

    pub(super) fn reply_released(&self, id: &Value, ended: Option<&Ended>) {
        match ended {
            None => self.reply(id, &json!({ "released": true })),
            Some(Ended::Lost(lost)) => self.reply(id, &json!({ "released": false, "lost": lost })),
            Some(Ended::Failed(error)) => self.reply_error(id, error),
        }
    }

    /// Sends an event that a slow client may miss.
    pub(super) fn tell(&self, event: &Value) {
        self.output.send_news(event);
    }
}

/// The end.
impl Session {
    /// Returns once the client has sent no ping for so long, while it held a lock.
    pub(super) async fn silence(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let due = self.state().last_sign + limit;
            let is_due = Instant::now() >= due;
            if is_due && !self.state().guards.is_empty() {
                // Guards that are being released are still listed.
                self.state().last_sign = Instant::now();
                return;
            }
            // Without a guard there is nothing to end; the first guard sets the time anew.
            let next = if is_due { Instant::now() + limit } else { due };
            tokio::time::sleep_until(next).await;
        }
    }

    /// Ends all guards and acquisitions, because the client does not need them any more.
    pub(super) async fn abandon(&self) {
        self.outlive_client().await;
        self.end_all(None);
    }

    /// Ends all guards and acquisitions. With a reason the client is told that its locks are lost.
    pub(super) fn end_all(&self, lost: Option<(&str, &str)>) {
        let mut state = self.state();
        state.pending.clear();
        for guard in state.guards.values() {
            let lost = lost.map(|(reason, message)| json!({ "reason": reason, "message": message }));
            let _ = guard.commands.send(Command::End(lost));
        }
    }

    /// Waits until every task has ended, and what was left to the background is released.
    pub(super) async fn idle(&self) {
        let mut tasks = std::mem::take(&mut self.state().tasks);
        while tasks.join_next().await.is_some() {}
        self.locker.wait_idle().await;
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("pid", &Pid::this()).finish_non_exhaustive()
    }
}
