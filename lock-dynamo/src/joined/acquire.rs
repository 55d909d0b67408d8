//! Acquires a lock in a mode that others may join.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, Mode,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease},
};

use crate::{
    acquire::{Verdict, next_token},
    backend::DynamoBackend,
    error::stranger,
    fair::Turn,
    held::overtaken,
    record::{Item, Joined, Part, Record},
    send::WriteOutcome,
    write::{ConditionalWrite, NewPart, part_end},
};

/// How many parts that have ended an item of readers may have before a newcomer removes them.
pub(super) const ENDED: usize = 16;
/// How long a part that has ended is kept at least, unless there are many: a late request of its id
/// is recognized until then.
const ENDED_KEPT: Duration = Duration::from_secs(60);
/// How many parts one update removes at most. DynamoDB limits an expression to 4 KB.
const REMOVED: usize = 200;
/// How often one attempt is made again because another client changed the item meanwhile.
const ROUNDS: usize = 32;

/// The result of one round of an attempt.
enum Round {
    Answered(AcquireOutcome),
    /// Another client has changed the item.
    Changed(Option<Item>),
}

impl DynamoBackend {
    /// Makes one attempt to hold the lock in a mode that others may join.
    ///
    /// The first request joins the holders of the same mode, and is the only one if the latest
    /// holders had that mode. A refusal returns the record, by which the next request takes a free
    /// lock or the place of a part that has ended.
    pub(crate) async fn attempt_to_join(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let first = if let Mode::Permit { of } = request.mode { usize::from(of.get()) } else { ENDED };
        let mut round = self.join(request, None, first, self.passed()).await?;
        for _ in 0..ROUNDS {
            match round {
                Round::Answered(answer) => return Ok(answer),
                Round::Changed(item) => round = self.join_seen(request, item).await?,
            }
        }
        let message = "other clients change this lock faster than a request can join them; try again";
        Err(Error::new(ErrorKind::Unavailable, message).with_ambiguous(false))
    }

    /// Returns the time of the store that has passed for sure, in milliseconds. Before a reply has
    /// shown that time, none has: this machine's clock may be wrong by hours.
    fn passed(&self) -> i64 {
        let now = self.clock.now_at_least();
        self.clock.skew(now.moment).map_or(0, |_| now.millis())
    }

    async fn join(
        &self,
        request: &AcquireRequest,
        fence: Option<FencingToken>,
        room: usize,
        passed: i64,
    ) -> Result<Round, Error> {
        let new = self.new_part(request, fence)?;
        let write = ConditionalWrite::join(&self.config.layout, new, room, passed);
        let version = write.version.clone();
        let old = match self.update_and_return(&request.name, write, Some(ReturnValue::AllOld)).await? {
            Ok(old) => old.map(|old| self.read(&old)),
            Err(item) => return Ok(Round::Changed(item)),
        };
        let crashed = match old.as_ref().and_then(|old| old.joined.as_ref()) {
            Some(joined) => self.clear_crashed(request, joined, &version).await,
            None => None,
        };
        self.granted_part(new, crashed).await.map(Round::Answered)
    }

    fn new_part<'r>(&self, request: &'r AcquireRequest, fence: Option<FencingToken>) -> Result<NewPart<'r>, Error> {
        let now = self.clock.now();
        let (token, unmark) = (next_token(fence, now, 0)?, self.waiting_marks.contains(request.id));
        Ok(NewPart { request, now, token, idle: self.idle(), unmark })
    }

    /// Removes the parts of dead holders that `request` has joined as this version, and describes
    /// these holders.
    async fn clear_crashed(&self, request: &AcquireRequest, joined: &Joined, version: &str) -> Option<Holder> {
        let crashed = self.crashed_holders(joined)?;
        let judged = self.judge_parts(joined);
        let dead = &judged.dead[..judged.dead.len().min(REMOVED)];
        let write = ConditionalWrite::clear(&self.config.layout, request.id, dead, version);
        // The next newcomer removes them, and reports them again, if this does not.
        if let Err(error) = self.update(&request.name, write).await {
            tracing::debug!(name = %request.name, %error, "the parts of dead holders stay in the item");
        }
        Some(crashed)
    }

    async fn written(
        &self,
        new: NewPart<'_>,
        write: ConditionalWrite<'_>,
        crashed: Option<Holder>,
    ) -> Result<Round, Error> {
        match self.update(&new.request.name, write).await? {
            WriteOutcome::Done => self.granted_part(new, crashed).await.map(Round::Answered),
            WriteOutcome::Refused(item) => Ok(Round::Changed(item)),
        }
    }

    /// Makes the next request by the item that refused the one before.
    async fn join_seen(&self, request: &AcquireRequest, item: Option<Item>) -> Result<Round, Error> {
        let layout = &self.config.layout;
        let Some(item) = item else {
            let new = self.new_part(request, None)?;
            let write = ConditionalWrite::take_missing_as_part(layout, new);
            return match self.written(new, write, None).await? {
                // There is an item, and the server does not return it with the refusal.
                Round::Changed(None) => Ok(Round::Changed(self.item(self.client().await?, &request.name).await?)),
                round => Ok(round),
            };
        };
        let seen = self.read(&item);
        if seen.is_stranger() {
            return Err(stranger(&request.name, &self.config));
        }
        if let Some(part) = seen.joined.as_ref().and_then(|joined| joined.part(request.id)) {
            return self.part_again(request, part).await.map(Round::Answered);
        }
        let turn = match self.other_waiter(request, &seen) {
            Some(waiter) => Err(Box::new(waiter)),
            None => self.turn(request, &seen),
        };
        let crashed = match self.judge(&request.name, &seen) {
            Verdict::Free => None,
            Verdict::Dead => self.crashed(&seen),
            Verdict::Undecided(skew) if seen.joined.is_none() => {
                self.queue(request, &seen).await?;
                return Err(self.undecided(skew, &seen));
            }
            Verdict::Held(_) | Verdict::Undecided(_) => return self.join_held(request, &seen, turn).await,
        };
        match turn.and_then(|turn| turn.with_room(request.mode, 0)) {
            Ok(turn) => {
                let new = self.new_part(request, seen.fence)?;
                let write = ConditionalWrite::take_over_as_part(layout, new, &seen).in_turn(&turn);
                self.written(new, write, crashed).await
            }
            Err(holder) => self.refuse(request, &seen, *holder).await.map(Round::Answered),
        }
    }

    /// Joins the present holders, unless their mode, their number or a waiting request is against
    /// it.
    async fn join_held(
        &self,
        request: &AcquireRequest,
        seen: &Record,
        turn: Result<Turn<'_>, Box<Holder>>,
    ) -> Result<Round, Error> {
        let holder = self.holder(&request.name, seen);
        let answer = async |holder| self.refuse(request, seen, holder).await.map(Round::Answered);
        let Some(joined) = &seen.joined else { return answer(holder).await };
        request.require_same_permits(joined.mode.unwrap_or_default())?;
        let Ok(turn) = turn else { return answer(holder).await };
        if joined.mode != Some(request.mode) {
            self.mark(request).await?;
            return answer(holder).await;
        }
        let judged = self.judge_parts(joined);
        let held = judged.kept.len() + judged.undecided.len();
        if let Mode::Permit { of } = request.mode
            && held >= usize::from(of.get())
        {
            return match judged.undecided.first() {
                Some(part) if judged.kept.len() < usize::from(of.get()) => {
                    self.queue(request, seen).await?;
                    Err(self.undecided_holder(judged.skew, judged.holder(part, None)))
                }
                _ => answer(holder).await,
            };
        }
        let Ok(turn) = turn.with_room(request.mode, held) else { return answer(holder).await };
        let now = self.clock.now();
        let recent = |part: &&&Part| part.free_at.is_some_and(|at| at > now.millis() - ended_kept_millis());
        let many = judged.ended.len() >= ENDED;
        // Dead parts first: while they stay, a late renewal could hold one part too many.
        let ended = judged.ended.iter().filter(|part| many || !recent(part));
        // The same expression ends places of the queue.
        let most = REMOVED.saturating_sub(turn.over.len());
        let gone: Vec<_> = judged.dead.iter().chain(ended).take(most).copied().collect();
        // The condition of a join without a record needs both.
        let is_readable = seen.fence.is_some() && !seen.has_odd_mark;
        if gone.is_empty() && seen.places.is_empty() && is_readable && request.mode == Mode::Shared {
            // Some emulators show no time. There this machine's own clock judges.
            let passed = self.clock.now_at_least().millis();
            return self.join(request, seen.fence, joined.parts.len() + ENDED, passed).await;
        }
        let new = self.new_part(request, seen.fence)?;
        let write = ConditionalWrite::replace_parts(&self.config.layout, new, seen, &gone).in_turn(&turn);
        self.written(new, write, self.crashed_holders(joined)).await
    }

    /// The request of another mode that waits, and that newcomers of this mode do not overtake.
    fn other_waiter(&self, request: &AcquireRequest, seen: &Record) -> Option<Holder> {
        let waiting = seen.waiting.as_ref()?;
        if waiting.mode == Some(request.mode) || waiting.id == request.id {
            return None;
        }
        let left = Record::until(self.clock.now_at_least(), waiting.until);
        (!left.is_zero()).then(|| waiting.holder(left))
    }

    /// Lets newcomers of the present holders' mode wait for `request`, if it waits itself.
    pub(crate) async fn mark(&self, request: &AcquireRequest) -> Result<(), Error> {
        // The place of a fair request keeps newcomers out.
        if !request.waits || request.fair {
            return Ok(());
        }
        self.waiting_marks.note(request.id, request.ttl);
        let (now, passed) = (self.clock.now(), self.clock.now_at_least().millis());
        let write = ConditionalWrite::mark(&self.config.layout, request, now, passed);
        // A refusal means that another request waits already, or that the holders are gone.
        self.update(&request.name, write).await?;
        Ok(())
    }

    /// Removes the mark of `lease`, whose request waits no longer.
    pub(crate) async fn unmark(&self, lease: &Lease) -> Result<(), Error> {
        self.update(&lease.name, ConditionalWrite::unmark(&self.config.layout, lease.id)).await?;
        self.waiting_marks.remove(lease.id);
        Ok(())
    }

    /// Handles a part with our id: an earlier request of this attempt arrived, but its reply was
    /// lost.
    async fn part_again(&self, request: &AcquireRequest, part: &Part) -> Result<AcquireOutcome, Error> {
        if !part.is_held() {
            return Err(released_meanwhile());
        }
        let token = part.fence;
        let seen = part.expires.ok_or_else(overtaken)?;
        let (layout, now) = (&self.config.layout, self.clock.now());
        let write = ConditionalWrite::correct_part(layout, &request.lease(token), now, self.idle(), seen, None);
        match self.write_again(&request.name, write).await? {
            WriteOutcome::Done => {
                self.waiting_marks.remove(request.id);
                self.queued.remove(request.id);
                Ok(AcquireOutcome::Granted(Grant::default().with_token(token).with_already_ours(true)))
            }
            WriteOutcome::Refused(item) => self.beaten(request, item).await,
        }
    }

    /// Completes the grant of a part that was written. If the clock was wrong then, the
    /// expiry and the token are wrong too, and are corrected first.
    async fn granted_part(&self, new: NewPart<'_>, crashed: Option<Holder>) -> Result<AcquireOutcome, Error> {
        let NewPart { request, now: at, mut token, .. } = new;
        if !self.stands(at) {
            let now = self.clock.now();
            let better = next_token(Some(token), now, 0)?;
            let correct = async |better: Option<FencingToken>| {
                let lease = request.lease(Some(token));
                let seen = part_end(at, request.ttl);
                let write = ConditionalWrite::correct_part(&self.config.layout, &lease, now, self.idle(), seen, better);
                self.write_again(&request.name, write).await
            };
            match correct(Some(better)).await? {
                WriteOutcome::Done => token = better,
                WriteOutcome::Refused(item) => {
                    // A later holder has a larger token, or the part is gone.
                    let held = item.is_some_and(|item| self.read(&item).is_held_by(request.id));
                    let again = if held { correct(None).await? } else { WriteOutcome::Refused(None) };
                    if let WriteOutcome::Refused(item) = again {
                        return self.beaten(request, item).await;
                    }
                }
            }
        }
        self.waiting_marks.remove(request.id);
        self.queued.remove(request.id);
        Ok(AcquireOutcome::Granted(Grant::default().with_token(token).with_crashed(crashed)))
    }
}

fn ended_kept_millis() -> i64 {
    i64::try_from(ENDED_KEPT.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn released_meanwhile() -> Error {
    let message = "this acquisition was released while one of its requests was still in flight; start a new one";
    Error::new(ErrorKind::Other, message)
}
