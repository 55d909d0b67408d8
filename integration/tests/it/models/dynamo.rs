//! A model of DynamoDB's native schema with absolute expiry: acquire, take over, renew and release,
//! over a faulty network.

use stateright::{Checker, Model, Property};

use super::holds;

/// A model with two clients and one name.
///
/// Time is counted in ticks. A client sends a write with the end of the lease, computed from its
/// own reading of the store's clock. The write arrives later, once or twice, or not before the end
/// of the model. Its reply arrives later, or never. A client without a reply may send another write
/// under the same lease id, or, if it is dead, nothing more. The first write may still be in
/// transit.
///
/// The writes and their conditions are those of `lock-dynamo`:
/// - *take free*: there is no record, or it is released and has another id;
/// - *take over*: the record has the version that the client read. The client sends it if the
///   recorded end is at least `skew_bound` before its reading;
/// - *renew*: the record is held under this id. A renewal never shortens the lease. It is also sent
///   if an acquisition finds its own id in the record;
/// - *release*: the record is held under this id. The id stays in the record, so that a late
///   acquisition of that id is refused.
///
/// # Assumptions
/// - Each client reads the store's clock with a constant error of at most `skew` ticks.
///   `skew <= skew_bound / 2`, because the holder may be ahead by as much as the contender is
///   behind.
/// - A conditional write is atomic, and its condition is evaluated when it arrives.
/// - A holder considers its lease valid until `TTL` after it *sent* the first write of its
///   acquisition, or its latest answered renewal. Its clock runs at the store's rate.
/// - Lease ids are never used again.
#[derive(Debug, Clone)]
struct Protocol {
    skew: i8,
    skew_bound: i8,
    /// The condition of a takeover contains the version that the client read.
    version_condition: bool,
    /// The validity of a lease counts from the request, and not from its reply.
    from_send: bool,
    /// A release compares the id.
    release_compares: bool,
}

const TTL: i8 = 2;
/// The end of the model's time: two leases one after the other, and enough time to misjudge them.
const END: i8 = 5;
/// The largest number of requests: three of a holder that acquires and renews twice, and two of a
/// client that takes over.
const REQUESTS: u8 = 5;

const NATIVE: Protocol =
    Protocol { skew: 1, skew_bound: 2, version_condition: true, from_send: true, release_compares: true };

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: i8,
    record: Option<Record>,
    versions: u8,
    ids: u8,
    sent: u8,
    /// A request that was given up, a request of a dead process, or a second copy of a request.
    astray: Option<Write>,
    clients: [Client; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    version: u8,
    id: u8,
    end: i8,
    released: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Client {
    /// The error of the client's reading of the store's clock.
    error: i8,
    /// The id of the current acquisition or lease.
    id: Option<u8>,
    /// The time of the first request of this acquisition, until the acquisition has an answer.
    first_sent: Option<i8>,
    /// The record that last refused this client.
    seen: Option<Record>,
    request: Option<Write>,
    reply: Option<Reply>,
    believes_until: Option<i8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Write {
    kind: Kind,
    id: u8,
    at: i8,
    end: i8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    TakeFree,
    TakeOver(u8),
    Renew,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Done(Write),
    /// Refused by a record with the same id: an earlier request of the acquisition has arrived.
    Own,
    /// Refused by this record.
    Refused(Option<Record>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tick,
    Acquire(usize),
    Renew(usize),
    Release(usize),
    Arrive(usize),
    ArriveAndStray(usize),
    ArriveAstray,
    GiveUp(usize),
    Reply(usize),
}

impl Client {
    fn new(error: i8) -> Self {
        Self { error, id: None, first_sent: None, seen: None, request: None, reply: None, believes_until: None }
    }

    /// Ends the lease, which has expired or was released. The next one is another lease.
    fn end(&mut self) {
        (self.id, self.first_sent, self.believes_until) = (None, None, None);
    }

    fn believes(&self, now: i8) -> bool {
        self.believes_until.is_some_and(|until| now < until)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        // Smaller errors have smaller effects.
        let errors = [[self.skew, self.skew], [self.skew, -self.skew], [-self.skew, -self.skew]];
        let state = |errors: [i8; 2]| State {
            now: 0,
            record: None,
            versions: 0,
            ids: 0,
            sent: 0,
            astray: None,
            clients: errors.map(Client::new),
        };
        errors.into_iter().map(state).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.now < END {
            actions.push(Step::Tick);
        }
        if state.astray.is_some() {
            actions.push(Step::ArriveAstray);
        }
        for (index, client) in state.clients.iter().enumerate() {
            if client.request.is_some() {
                actions.push(Step::Arrive(index));
                if state.astray.is_none() {
                    actions.extend([Step::ArriveAndStray(index), Step::GiveUp(index)]);
                }
            } else if client.reply.is_some() {
                actions.push(Step::Reply(index));
            } else if state.sent < REQUESTS {
                if client.believes(state.now) {
                    actions.extend([Step::Renew(index), Step::Release(index)]);
                } else {
                    actions.push(Step::Acquire(index));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Step) -> Option<State> {
        let mut state = last.clone();
        match action {
            Step::Tick => state.now += 1,
            Step::Acquire(index) => self.acquire(&mut state, index)?,
            Step::Renew(index) => self.send(&mut state, index, Kind::Renew),
            Step::Release(index) => {
                self.send(&mut state, index, Kind::Release);
                state.clients[index].end();
            }
            Step::Arrive(index) => {
                let write = state.clients[index].request.take()?;
                state.clients[index].reply = Some(self.arrive(&mut state, write));
            }
            Step::ArriveAndStray(index) => {
                let write = state.clients[index].request.take()?;
                state.astray = Some(write);
                state.clients[index].reply = Some(self.arrive(&mut state, write));
            }
            Step::ArriveAstray => {
                let write = state.astray.take()?;
                self.arrive(&mut state, write);
            }
            Step::GiveUp(index) => state.astray = state.clients[index].request.take(),
            Step::Reply(index) => {
                let reply = state.clients[index].reply.take()?;
                self.hear(&mut state, index, reply);
            }
        }
        for client in &mut state.clients {
            if client.believes_until.is_some() && !client.believes(state.now) {
                client.end();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EXCLUSION, |_, state: &State| believers(state) <= 1),
            Property::sometimes(TAKEOVER, |_, state: &State| {
                let taken =
                    |client: &Client| matches!(client.reply, Some(Reply::Done(Write { kind: Kind::TakeOver(_), .. })));
                state.clients.iter().any(taken)
            }),
            Property::sometimes(OWN, |_, state: &State| {
                state.clients.iter().any(|client| client.reply == Some(Reply::Own) && client.first_sent.is_some())
            }),
        ]
    }
}

const EXCLUSION: &str = "at most one client considers its lock valid";
const TAKEOVER: &str = "a dead holder is taken over";
const OWN: &str = "a repetition finds its own lock";

fn believers(state: &State) -> usize {
    state.clients.iter().filter(|client| client.believes(state.now)).count()
}

impl Protocol {
    fn send(&self, state: &mut State, index: usize, kind: Kind) {
        let now = state.now;
        state.sent += 1;
        let client = &mut state.clients[index];
        let id = client.id.expect("a sender has an id");
        client.request = Some(Write { kind, id, at: now, end: now + client.error + TTL });
    }

    /// Sends the write that the last record allows, if it allows one.
    fn acquire(&self, state: &mut State, index: usize) -> Option<()> {
        let client = &state.clients[index];
        let reading = state.now + client.error;
        let kind = match client.seen {
            None => Kind::TakeFree,
            Some(seen) if client.id == Some(seen.id) && !seen.released => Kind::TakeFree,
            Some(seen) if seen.released => Kind::TakeOver(seen.version),
            Some(seen) if reading >= seen.end + self.skew_bound => Kind::TakeOver(seen.version),
            Some(_) => return None,
        };
        if client.id.is_none() {
            state.ids += 1;
            state.clients[index].id = Some(state.ids);
        }
        state.clients[index].first_sent.get_or_insert(state.now);
        self.send(state, index, kind);
        Some(())
    }

    fn arrive(&self, state: &mut State, write: Write) -> Reply {
        let record = state.record;
        let own = record.is_some_and(|record| record.id == write.id && !record.released);
        let admitted = match write.kind {
            Kind::TakeFree => record.is_none_or(|record| record.released && record.id != write.id),
            Kind::TakeOver(version) => {
                record.is_some_and(|record| record.version == version || !self.version_condition)
            }
            Kind::Renew => own,
            Kind::Release => own || !self.release_compares,
        };
        if !admitted {
            let acquires = matches!(write.kind, Kind::TakeFree | Kind::TakeOver(_));
            return if own && acquires { Reply::Own } else { Reply::Refused(record) };
        }
        state.versions += 1;
        let (version, released) = (state.versions, write.kind == Kind::Release);
        let end = match (write.kind, record) {
            (Kind::Renew | Kind::Release, Some(record)) => record.end.max(write.end),
            _ => write.end,
        };
        state.record = Some(Record { version, id: write.id, end, released });
        Reply::Done(write)
    }

    fn hear(&self, state: &mut State, index: usize, reply: Reply) {
        let now = state.now;
        let counts_from = |at: i8| if self.from_send { at } else { now };
        let client = &mut state.clients[index];
        match reply {
            Reply::Done(Write { kind: Kind::TakeFree | Kind::TakeOver(_), .. }) => {
                let first = client.first_sent.take().expect("the acquisition was sent");
                client.believes_until = Some(counts_from(first) + TTL);
            }
            Reply::Done(Write { kind: Kind::Renew, at, .. }) => {
                // An acquisition that found its own lock also counts from its first request.
                match client.first_sent.take() {
                    Some(first) => client.believes_until = Some(counts_from(first) + TTL),
                    None if client.believes_until.is_some() => client.believes_until = Some(counts_from(at) + TTL),
                    // The reply is too late, and a lost lease stays lost.
                    None => {}
                }
            }
            Reply::Own => {
                if state.sent < REQUESTS {
                    self.send(state, index, Kind::Renew);
                }
            }
            Reply::Refused(by) => {
                client.end();
                client.seen = by;
            }
            Reply::Done(Write { kind: Kind::Release, .. }) => {}
        }
    }
}

#[test]
// verifies: P1
fn dynamo_excludes_while_the_skew_is_within_half_the_bound() {
    assert!(holds(NATIVE, EXCLUSION));
}

/// Returns whether some run reaches the state.
fn comes_to(what: &'static str) -> bool {
    NATIVE.checker().spawn_bfs().join().discovery(what).is_some()
}

#[test]
// verifies: P9
fn dynamo_takes_over_from_a_dead_holder() {
    assert!(comes_to(TAKEOVER));
}

#[test]
fn dynamo_knows_its_own_lock_when_it_asks_again() {
    assert!(comes_to(OWN));
}

#[test]
fn dynamo_fails_when_the_skew_exceeds_the_bound() {
    assert!(!holds(Protocol { skew: 2, ..NATIVE }, EXCLUSION));
    assert!(!holds(Protocol { skew_bound: 1, ..NATIVE }, EXCLUSION));
}

#[test]
fn dynamo_fails_without_the_version_in_the_condition() {
    assert!(!holds(Protocol { version_condition: false, ..NATIVE }, EXCLUSION));
}

#[test]
fn dynamo_fails_when_a_lease_counts_from_its_reply() {
    assert!(!holds(Protocol { from_send: false, ..NATIVE }, EXCLUSION));
}

#[test]
fn dynamo_fails_when_a_release_does_not_compare() {
    assert!(!holds(Protocol { release_compares: false, ..NATIVE }, EXCLUSION));
}
