//! A process that acquires locks on command: `nfs_peer URL`.
//!
//! It reads commands from standard input, one a line, and answers on standard output. Each answer
//! ends with the nanoseconds of `CLOCK_MONOTONIC`:
//!
//! | command | answers |
//! | --- | --- |
//! | `acquire NAME [MODE]` | `acquired NAME TOKEN CRASHED T`; then it works under the lock |
//! | `acquire NAME fair` | the same, and `waits NAME T` each time that it is refused |
//! | `try NAME [MODE]` | `acquired NAME TOKEN CRASHED T`, or `held NAME OWNER T` |
//! | `renew NAME` | `renewed NAME T`, once a renewal can extend the validity |
//! | `release NAME` | `released NAME T`, or `notheld NAME T` |
//! | (a loss) | `lost NAME KIND REASON LAST-STEP T`, after `Guard::run` has stopped the work |
//! | `churn NAME` | `cycle NAME TOKEN FROM TO T` after each time that it held the lock, until it ends |
//! | `share NAME` | `cycle` as for `churn`; several tasks acquire the lock again and again |
//! | `keep NAME` | the same as for `acquire`, once one of these tasks has the lock from another one |
//! | `requests` | `requests - OPERATION=NUMBER... T`, the requests of this mount until now |
//! | `sweep DIR` | `swept DIR NUMBER T`, repeatedly: it removes all names that no process holds |
//!
//! - MODE is `shared`, the number of permits, or `fair`.
//! - CRASHED is the holder that crashed without a release, or `-`.
//! - LAST-STEP is the time of the last step of the work.
//!
//! Errors are `error NAME TEXT T`, and warnings of the crates are `warning - TEXT T`. Spaces in
//! texts become underscores.

mod requests;
mod sharing;

use std::{
    collections::HashMap,
    env,
    fmt::Write as _,
    io::Write,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use lock_core::{Guard, Locker, Mode, Registry, TryAcquire, backend::Release};
use lock_efs::{FileBackend, FileFactory, Sweep};
use test_support::monotonic_nanos;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};
use tracing::{Event, Level, Metadata, Subscriber, field, span};

use sharing::Sharing;

type Failure = Box<dyn std::error::Error>;

/// A command to a task that has a lock. Without a sender, the task releases it.
struct Renew;

type Keeper = mpsc::UnboundedSender<Renew>;
type Kept = mpsc::UnboundedReceiver<Renew>;

/// How old a lease is at least when it is renewed on command. Longer than a request takes, so that
/// one renewal is enough, and longer than probes share what they asked of the server.
const RENEWED_AFTER: Duration = Duration::from_millis(600);

fn say(what: &str, name: &str, words: &[&str]) {
    let words: String = words.iter().map(|word| word.replace([' ', '\n'], "_") + " ").collect();
    let line = format!("{what} {name} {words}{}\n", monotonic_nanos());
    // No process reads the pipe after the test.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    tracing::subscriber::set_global_default(Warnings)?;
    let url = env::args().nth(1).ok_or("usage: nfs_peer URL")?;
    let locker = Registry::new().with(FileFactory).open(&url).await?;
    say("ready", "-", &[]);
    let mut keepers: HashMap<String, Keeper> = HashMap::new();
    let sharing = Sharing::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split(' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let word = words.next();
        let fair = word == Some("fair");
        let mode = mode_of(word.filter(|_| !fair))?;
        match verb {
            "acquire" | "try" => {
                let (keeper, kept) = mpsc::unbounded_channel();
                keepers.insert(name.into(), keeper);
                let locker = locker.clone();
                let request = (name.to_owned(), mode, fair);
                tokio::spawn(contend(locker, request, verb == "try", kept));
            }
            "share" => sharing.start(&locker, name),
            "keep" => {
                let (keeper, kept) = mpsc::unbounded_channel();
                keepers.insert(name.into(), keeper);
                sharing.keep_next(kept);
            }
            "renew" => keepers.get(name).ok_or("renew what was acquired")?.send(Renew).map_err(|_| "it has ended")?,
            "requests" => drop(tokio::spawn(requests::count())),
            "churn" => drop(tokio::spawn(churn(locker.clone(), name.to_owned()))),
            "sweep" => sweep(name.to_owned())?,
            "release" => drop(keepers.remove(name)),
            other => say("error", name, &["unknown command", other]),
        }
    }
    Ok(())
}

fn mode_of(word: Option<&str>) -> Result<Mode, Failure> {
    Ok(match word {
        None => Mode::Exclusive,
        Some("shared") => Mode::Shared,
        Some(number) => Mode::Permit { of: number.parse()? },
    })
}

async fn contend(locker: Locker, (name, mode, fair): (String, Mode, bool), once: bool, kept: Kept) {
    let mut request = locker.lock(name.as_str()).mode(mode);
    if fair {
        let refused = name.clone();
        request = request.fair(true).on_contention(move |_| say("waits", &refused, &[]));
    }
    let answer = match once {
        true => request.try_acquire().await,
        false => request.acquire().await.map(TryAcquire::Acquired),
    };
    match answer {
        Ok(TryAcquire::Acquired(guard)) => keep(guard, &name, kept).await,
        Ok(TryAcquire::Contended(holder)) => say("held", &name, &[&holder.to_string()]),
        Err(error) => say("error", &name, &[&error.to_string()]),
    }
}

async fn churn(locker: Locker, name: String) {
    loop {
        let guard = match locker.acquire(&name).await {
            Ok(guard) => guard,
            Err(error) => return say("error", &name, &[&error.to_string()]),
        };
        if let Some(crashed) = guard.crashed_holder() {
            return say("error", &name, &[&format!("no process crashed, but the grant reports {crashed}")]);
        }
        let (from, token) = (monotonic_nanos(), guard.token().map_or(0, |token| token.get()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Err(lost) = guard.check() {
            return say("error", &name, &[&lost.to_string()]);
        }
        let to = monotonic_nanos();
        if !matches!(guard.release().await, Ok(Release::Released)) {
            return say("error", &name, &["the lock was not released"]);
        }
        say("cycle", &name, &[&token.to_string(), &from.to_string(), &to.to_string()]);
        // The name must be idle for a moment, because otherwise there is nothing to sweep.
        tokio::time::sleep(Duration::from_millis(u64::from(std::process::id()) * 37 % 200)).await;
    }
}

fn sweep(directory: String) -> Result<(), Failure> {
    let backend = FileBackend::open(&directory)?;
    std::thread::spawn(move || {
        loop {
            match backend.sweep(Sweep::new(Duration::ZERO)) {
                Ok(swept) => say("swept", &directory, &[&swept.removed.len().to_string()]),
                // The other client is sweeping.
                Err(error) if error.is_retryable() => {}
                Err(error) => say("error", &directory, &[&error.to_string()]),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    Ok(())
}

/// Works under the lock until the command to release it, or until it is lost.
async fn keep(guard: Guard, name: &str, mut kept: Kept) {
    let crashed = guard.crashed_holder().map_or_else(|| "-".into(), ToString::to_string);
    say("acquired", name, &[&guard.token().map_or(0, |token| token.get()).to_string(), &crashed]);
    let renewed_below = guard.remaining().unwrap_or_default().saturating_sub(RENEWED_AFTER);
    let last_step = AtomicI64::new(0);
    let work = async || {
        loop {
            last_step.store(monotonic_nanos(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    loop {
        tokio::select! {
            told = kept.recv() => match told {
                Some(Renew) => renew(&guard, renewed_below).await,
                None => break,
            },
            Err(lost) = guard.run::<()>(work()) => {
                let last_step = last_step.load(Ordering::Relaxed).to_string();
                say("lost", name, &[lost.reason.as_str(), &lost.reason.to_string(), &last_step]);
                while kept.recv().await.is_some() {}
                break;
            }
        }
    }
    match guard.release().await {
        Ok(Release::Released) => say("released", name, &[]),
        Ok(Release::NotHeld(_)) => say("notheld", name, &[]),
        Err(error) => say("error", name, &[&error.to_string()]),
    }
}

async fn renew(guard: &Guard, below: Duration) {
    let name = guard.name().as_str();
    while guard.remaining().is_some_and(|left| left >= below) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match guard.renew_if_below(below).await {
        Ok(()) => say("renewed", name, &[]),
        Err(error) => say("error", name, &[&error.to_string()]),
    }
}

/// Prints the warnings of the crates.
struct Warnings;

struct Text(String);

impl field::Visit for Text {
    fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        say("warning", "-", &[text.0.trim_end()]);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
