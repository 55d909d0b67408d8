//! The form for programs: any number of locks, by lines of JSON.

mod held;
mod objects;
pub(crate) mod request;
mod session;
mod streams;

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use lock_core::Locker;
use tokio::{sync::mpsc::Receiver, time::timeout};

use self::{
    session::{Defaults, Session},
    streams::{Line, Output},
};
use super::{
    client::{Client, ClientWatch},
    descriptors::{self, InputEnd},
};
use crate::{
    args::{LockArgs, OnLoss, StoreArgs},
    exit::{self, Exit, Failure},
    output::write_on_thread,
    run::signals::Signals,
    runtime::runtime,
    store::StoreLocation,
    sys,
    target::Names,
};

/// How long the release of all locks may take at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the client may take to read the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the client to its end.
pub(super) fn run(args: LockArgs, on_loss: OnLoss, heartbeat: Option<Duration>) -> Result<Exit, Failure> {
    let client = Arc::new(Client::find(on_loss)?);
    // A signal that a terminal sends reaches the client too, unless a person types the requests.
    let ignores_terminal = !std::io::stdin().is_terminal();
    let defaults = Defaults {
        mode: args.mode(),
        fair: args.fair,
        spread: args.spread,
        ttl: args.ttl,
        grace: args.grace,
        min_hold: args.limits.min_hold,
        max_hold: args.limits.max_hold,
        owner: args.owner,
        on_loss,
    };
    write_on_thread();
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let input = descriptors::take_stdin()?;
        let mut server = Server {
            ended: client.watch()?,
            signals: Signals::all()?,
            ignores_terminal,
            input_end: InputEnd::of(&input),
            lines: streams::read_lines(input)?,
            output: Output::start(descriptors::take_stdout()?)?,
            heartbeat,
        };
        let names = Names::in_store(&args.store);
        let locker = match server.open(args.store).await? {
            Ok(locker) => locker,
            Err(exit) => return Ok(exit),
        };
        server.output.send(&objects::hello(&locker));
        let session = Session::new(locker, Arc::clone(&client), defaults, server.output.clone(), names);
        let end = server.serve(&session).await;
        match end.as_ref().ok().and_then(End::told) {
            None => session.abandon().await,
            told => session.end_all(told),
        }
        let _ = timeout(RELEASE_TIMEOUT, session.idle()).await;
        let _ = timeout(FLUSH_TIMEOUT, server.output.flushed()).await;
        end.map(|_| Exit::Code(0))
    });
    runtime.shutdown_background();
    exit
}

/// The reason why the session ends.
enum End {
    /// The client ended, or closed one of its streams.
    Client,
    Signal,
}

impl End {
    /// Returns what the client is told of its locks.
    fn told(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Client => None,
            Self::Signal => Some(("released", "onelock hold was ended by a signal")),
        }
    }
}

struct Server {
    ended: ClientWatch,
    signals: Signals,
    ignores_terminal: bool,
    lines: Receiver<Line>,
    input_end: InputEnd,
    output: Output,
    heartbeat: Option<Duration>,
}

impl Server {
    /// Opens the store. A failure is also told to the client. The exit code is for a session that
    /// ends before.
    async fn open(&mut self, args: StoreArgs) -> Result<Result<Locker, Exit>, Failure> {
        let opening = async {
            let store = StoreLocation::choose_on_thread(args).await?;
            store.warn_of_another_directory(None).await?;
            store.open().await
        };
        let signalled = async {
            loop {
                let signal = self.signals.next().await.map_err(|e| Failure::os("reading signals", e))?;
                if signal.is_fatal() {
                    return Ok(signal.number);
                }
                sys::deliver_to_self(signal.number);
            }
        };
        let opened = tokio::select! {
            biased;
            () = self.ended.ended() => return Ok(Err(Exit::Code(exit::NOT_ACQUIRED))),
            signal = signalled => return signal.map(|signal| Err(Exit::Signal(signal))),
            opened = opening => opened,
        };
        if let Err(failure) = &opened {
            self.output.send(&objects::not_opened(failure));
            let _ = timeout(FLUSH_TIMEOUT, self.output.flushed()).await;
        }
        opened.map(Ok)
    }

    /// Handles requests until the session ends.
    async fn serve(&mut self, session: &Arc<Session>) -> Result<End, Failure> {
        let mut abandoned = false;
        loop {
            let reads = self.output.has_room();
            tokio::select! {
                biased;
                () = self.ended.ended() => return Ok(End::Client),
                signal = self.signals.next() => {
                    let signal = signal.map_err(|e| Failure::os("reading signals", e))?;
                    if !signal.is_fatal() {
                        sys::deliver_to_self(signal.number);
                    } else if !(signal.by_terminal && self.ignores_terminal) {
                        return Ok(End::Signal);
                    }
                }
                () = self.output.closed() => return Ok(End::Client),
                line = self.lines.recv(), if reads => match line {
                    Some(line) => {
                        session.handle(line);
                        // It may have acquired a lock.
                        abandoned = false;
                    }
                    None => return Ok(End::Client),
                },
                () = self.input_end.closed(), if !reads && !abandoned => {
                    // The client may still read its replies.
                    session.abandon().await;
                    abandoned = true;
                }
                () = self.output.written(), if !reads => {}
                () = session.silence(self.heartbeat) => {
                    session.end_all(Some(("client_silent", "the client sent no ping in time")));
                }
            }
        }
    }
}
