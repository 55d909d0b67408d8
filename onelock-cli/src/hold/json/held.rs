//! One guard of the client: a task that reports what happens to the lock, and answers questions.

use std::{collections::VecDeque, future::pending, pin::Pin, sync::Arc, time::Duration};

use lock_core::{Error, Guard, backend::Release};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    objects,
    session::{Ended, Session},
};

/// What the session asks of a guard. The value is the id of the request.
#[derive(Debug)]
pub(super) enum Command {
    Check(Value),
    Ensure(Value, Duration),
    Release(Value),
    /// Ends the guard without a request. With an object, the client is told that the lock is lost.
    End(Option<Value>),
}

/// Serves one guard until it is released or lost.
pub(super) async fn serve(session: Arc<Session>, number: u64, guard: Guard, mut commands: UnboundedReceiver<Command>) {
    let end = watch(&session, number, &guard, &mut commands).await;
    let release_request = match end {
        End::Lost(lost) => {
            session.lose(number, &lost).await;
            session.note_end(number, Some(Ended::Lost(lost)));
            // What the store still keeps of it is released.
            let _ = guard.release().await;
            None
        }
        End::Quiet => {
            let _ = guard.release().await;
            session.note_end(number, None);
            None
        }
        End::Released(id) => {
            let ended = released(guard).await;
            session.note_end(number, ended.clone());
            Some((id, ended))
        }
    };
    if let Some((id, ended)) = release_request {
        session.reply_released(&id, ended.as_ref());
    }
    // What was asked in the meantime is answered as for any guard that has ended.
    commands.close();
    while let Some(command) = commands.recv().await {
        session.answer_ended(number, command);
    }
}

enum End {
    /// The client was not asked: with the object of the loss.
    Lost(Value),
    /// The session ends, and the client knows.
    Quiet,
    Released(Value),
}

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

async fn watch(session: &Session, number: u64, guard: &Guard, commands: &mut UnboundedReceiver<Command>) -> End {
    let mut stopping = false;
    let mut told = guard.valid_until();
    let mut renewal: Option<(Value, Renewal<'_>)> = None;
    let mut asked: VecDeque<(Value, Duration)> = VecDeque::new();
    loop {
        // In every round, because `renewed` misses a renewal between two waits.
        if guard.valid_until() != told {
            told = guard.valid_until();
            session.tell(&objects::renewed(number, guard));
        }
        if renewal.is_none() {
            renewal = asked.pop_front().map(|(id, at_least)| {
                let renewal: Renewal<'_> = Box::pin(guard.renew_if_below(at_least));
                (id, renewal)
            });
        }
        tokio::select! {
            biased;
            lost = guard.lost() => {
                let lost = objects::lost(&lost);
                let open = renewal.into_iter().map(|(id, _)| id).chain(asked.into_iter().map(|(id, _)| id));
                open.for_each(|id| session.reply(&id, &objects::not_held(&lost)));
                return End::Lost(lost);
            }
            _ = guard.stop_requested(), if !stopping => {
                stopping = true;
                session.stop(number).await;
            }
            command = commands.recv() => match command {
                Some(Command::Check(id)) => session.reply(&id, &objects::held(guard)),
                Some(Command::Ensure(id, at_least)) => asked.push_back((id, at_least)),
                Some(Command::Release(id)) => {
                    cancel(session, renewal, asked);
                    return End::Released(id);
                }
                Some(Command::End(Some(lost))) => return End::Lost(lost),
                Some(Command::End(None)) | None => return End::Quiet,
            },
            (id, done) = finished(&mut renewal) => {
                renewal = None;
                match done {
                    Ok(()) => session.reply(&id, &objects::held(guard)),
                    // Answered, with the reason, by the loss.
                    Err(error) if error.lost().is_some() => asked.push_front((id, Duration::ZERO)),
                    Err(error) => session.reply_error(&id, &objects::error(&error)),
                }
            }
            () = guard.renewed() => {}
        }
    }
}

/// Waits for the renewal in progress. Cancel safe: it goes on in the next call.
async fn finished(renewal: &mut Option<(Value, Renewal<'_>)>) -> (Value, Result<(), Error>) {
    match renewal {
        Some((id, renewal)) => {
            let done = renewal.await;
            (id.clone(), done)
        }
        None => pending().await,
    }
}

fn cancel(session: &Session, renewal: Option<(Value, Renewal<'_>)>, asked: VecDeque<(Value, Duration)>) {
    let cancelled = objects::refusal("cancelled", "the guard was released before the lock was renewed");
    let open = renewal.into_iter().map(|(id, _)| id).chain(asked.into_iter().map(|(id, _)| id));
    open.for_each(|id| session.reply_error(&id, &cancelled));
}

/// Releases the lock; `None` if it was held until then.
async fn released(guard: Guard) -> Option<Ended> {
    let name = guard.name().clone();
    match guard.release().await {
        Ok(Release::Released) => None,
        Ok(Release::NotHeld(holder)) => {
            let reason = if holder.is_some() { "taken" } else { "record_gone" };
            let message = format!("the lock \"{name}\" was lost before it was released");
            Some(Ended::Lost(json!({ "reason": reason, "message": message })))
        }
        Err(error) => Some(Ended::Failed(objects::error(&error))),
    }
}
