//! Two protocols as small models, checked exhaustively: every order of events, every clock reading that the assumptions allow.
//!
//! Each model says what it assumes, and a test breaks that assumption and shows that exclusion goes with it: the model can see.
//! What is *not* in them: that the code does what the model does. That is the simulation's and the conformance kit's part.

use stateright::{Checker, Model, Property};

/// Two clients, one name, DynamoDB's native schema with absolute expiry.
///
/// Time is counted in ticks. A client sends a write that carries a lease end, computed from its own reading of the store's clock;
/// the write arrives later, or never, and its reply comes later, or never. A client takes over when the recorded end lies at least
/// `skew_bound` before its reading, on the condition of the version that it saw.
///
/// # Assumptions
/// - Each client reads the store's clock with an error of at most `skew` ticks, constant during the run: `skew <= skew_bound / 2`, because
///   the holder may be ahead by as much as the contender is behind.
/// - A conditional write is atomic, and its condition is evaluated when it arrives.
/// - A holder believes until `TTL` after it *sent* the granting write, on a clock that runs at the store's rate.
#[derive(Debug, Clone)]
struct DynamoLease {
    skew: i8,
    skew_bound: i8,
    /// The condition of a takeover names the version that was seen.
    version_condition: bool,
    /// A lease counts from its send, and not from its reply.
    from_send: bool,
}

const TTL: i8 = 3;
/// The end of the model's time: two leases one after the other, and the room to misjudge them.
const END: i8 = 9;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DynamoState {
    now: i8,
    /// The record: version, end of the lease as recorded.
    record: Option<(u8, i8)>,
    versions: u8,
    clients: [DynamoClient; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DynamoClient {
    /// Its reading of the store's clock is wrong by this.
    error: i8,
    /// The version and the end of the lease that it last read.
    seen: Option<(u8, i8)>,
    request: Request,
    believes_until: Option<i8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Request {
    None,
    /// Sent at a time, with a lease end, for a free record or for this version.
    Sent {
        at: i8,
        end: i8,
        instead_of: Option<u8>,
    },
    /// Granted; the reply is under way.
    Granted {
        at: i8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tick,
    Read(usize),
    Send(usize),
    Arrive(usize),
    Reply(usize),
    Forget(usize),
}

impl Model for DynamoLease {
    type State = DynamoState;
    type Action = Step;

    fn init_states(&self) -> Vec<DynamoState> {
        let errors = -self.skew..=self.skew;
        let pairs = errors.clone().flat_map(|a| errors.clone().map(move |b| [a, b]));
        let client = |error| DynamoClient { error, seen: None, request: Request::None, believes_until: None };
        pairs.map(|pair| DynamoState { now: 0, record: None, versions: 0, clients: pair.map(client) }).collect()
    }

    fn actions(&self, state: &DynamoState, actions: &mut Vec<Step>) {
        if state.now < END {
            actions.push(Step::Tick);
        }
        for (index, client) in state.clients.iter().enumerate() {
            match client.request {
                Request::None if client.believes_until.is_none_or(|until| until <= state.now) => {
                    actions.extend([Step::Read(index), Step::Send(index)]);
                }
                Request::None => {}
                Request::Sent { .. } => actions.extend([Step::Arrive(index), Step::Forget(index)]),
                Request::Granted { .. } => actions.extend([Step::Reply(index), Step::Forget(index)]),
            }
        }
    }

    fn next_state(&self, last: &DynamoState, action: Step) -> Option<DynamoState> {
        let mut state = last.clone();
        match action {
            Step::Tick => state.now += 1,
            Step::Read(index) => state.clients[index].seen = state.record,
            Step::Send(index) => state.clients[index].request = self.send(&state.clients[index], state.now)?,
            Step::Arrive(index) => self.arrive(&mut state, index),
            Step::Reply(index) => {
                let Request::Granted { at } = state.clients[index].request else { return None };
                let from = if self.from_send { at } else { state.now };
                state.clients[index].believes_until = Some(from + TTL);
                state.clients[index].request = Request::None;
            }
            // It died, or gave up; the process that follows it knows nothing.
            Step::Forget(index) => {
                let error = state.clients[index].error;
                state.clients[index] = DynamoClient { error, seen: None, request: Request::None, believes_until: None };
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one believes", |_, state: &DynamoState| believers(state) <= 1),
            Property::sometimes("a dead holder is taken over", |_, state: &DynamoState| {
                believers(state) == 1 && state.record.is_some_and(|(version, _)| version > 1)
            }),
        ]
    }
}

fn believers(state: &DynamoState) -> usize {
    state.clients.iter().filter(|client| client.believes_until.is_some_and(|until| state.now < until)).count()
}

impl DynamoLease {
    /// What the client writes if the record that it saw lets it.
    fn send(&self, client: &DynamoClient, now: i8) -> Option<Request> {
        let reading = now + client.error;
        let instead_of = match client.seen {
            None => None,
            Some((version, end)) if reading >= end + self.skew_bound => Some(version),
            Some(_) => return None,
        };
        Some(Request::Sent { at: now, end: reading + TTL, instead_of })
    }

    fn arrive(&self, state: &mut DynamoState, index: usize) {
        let Request::Sent { at, end, instead_of } = state.clients[index].request else { return };
        let version = state.record.map(|(version, _)| version);
        let admitted = version == instead_of || (!self.version_condition && instead_of.is_some());
        if admitted {
            state.versions += 1;
            state.record = Some((state.versions, end));
            state.clients[index].request = Request::Granted { at };
        } else {
            state.clients[index].request = Request::None;
        }
    }
}

const DYNAMO: DynamoLease = DynamoLease { skew: 1, skew_bound: 2, version_condition: true, from_send: true };

/// Whether exclusion holds in every run; the number of states is printed.
fn holds<M>(model: M, property: &'static str) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: std::hash::Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq + 'static,
    M::Action: std::fmt::Debug + Clone + PartialEq,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    if let Some(path) = checker.discovery(property) {
        println!("counterexample to \"{property}\":\n{path}");
        return false;
    }
    assert!(checker.is_done(), "every state was visited");
    true
}

#[test]
fn dynamo_excludes_while_the_skew_is_within_half_the_bound() {
    assert!(holds(DYNAMO, "at most one believes"));
}

#[test]
fn dynamo_takes_over_from_a_dead_holder() {
    let checker = DYNAMO.checker().spawn_bfs().join();
    assert!(checker.discovery("a dead holder is taken over").is_some());
}

#[test]
fn dynamo_fails_when_the_skew_exceeds_the_bound() {
    assert!(!holds(DynamoLease { skew: 2, ..DYNAMO }, "at most one believes"));
    assert!(!holds(DynamoLease { skew_bound: 1, ..DYNAMO }, "at most one believes"));
}

#[test]
fn dynamo_fails_without_the_version_in_the_condition() {
    assert!(!holds(DynamoLease { version_condition: false, ..DYNAMO }, "at most one believes"));
}

#[test]
fn dynamo_fails_when_a_lease_counts_from_its_reply() {
    assert!(!holds(DynamoLease { from_send: false, ..DYNAMO }, "at most one believes"));
}

/// Two clients of an NFSv4.1 server, one lock, and the probe that tells a holder whether its client's lease still stands.
///
/// A probe is one read through the locked descriptor: sent, answered by the server at some moment, and its answer received later, or never.
/// Answered well it proves that the lock was held at that moment, and renews the client's lease on the server; so the holder believes until
/// `LEASE - MARGIN` after the *start* of its last good probe.
///
/// # Assumptions
/// - The server keeps the locks of a client for a whole `LEASE` after the last request of it that arrived.
/// - A probe of a client whose lock the server has dropped is answered with EIO, and goes on to be: the client does not recover lost
///   locks by itself (`nfs.recover_lost_locks=0`).
#[derive(Debug, Clone)]
struct NfsProbe {
    margin: i8,
    /// The belief counts from the start of the probe, and not from its answer.
    from_start: bool,
    /// The client quietly takes a lost lock again when it can, and the probe then succeeds.
    recovers_lost_locks: bool,
}

const LEASE: i8 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NfsState {
    now: i8,
    /// Who the server says holds the lock.
    holder: Option<usize>,
    /// When the server last heard of each client.
    heard: [i8; 2],
    clients: [NfsClient; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct NfsClient {
    has_lock: bool,
    believes_until: i8,
    /// Somebody else has had the lock since.
    intruded: bool,
    /// When a probe was sent; and, once it was answered, whether well.
    probe: Option<(i8, Option<bool>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NfsStep {
    Tick,
    Lock(usize),
    SendProbe(usize),
    AnswerProbe(usize),
    ReceiveAnswer(usize),
    Unlock(usize),
}

impl Model for NfsProbe {
    type State = NfsState;
    type Action = NfsStep;

    fn init_states(&self) -> Vec<NfsState> {
        vec![NfsState { now: 0, holder: None, heard: [0; 2], clients: Default::default() }]
    }

    fn actions(&self, state: &NfsState, actions: &mut Vec<NfsStep>) {
        if state.now < END {
            actions.push(NfsStep::Tick);
        }
        for (index, client) in state.clients.iter().enumerate() {
            match client.probe {
                _ if !client.has_lock => actions.push(NfsStep::Lock(index)),
                None => actions.extend([NfsStep::SendProbe(index), NfsStep::Unlock(index)]),
                Some((_, None)) => actions.push(NfsStep::AnswerProbe(index)),
                Some((_, Some(_))) => actions.push(NfsStep::ReceiveAnswer(index)),
            }
        }
    }

    fn next_state(&self, last: &NfsState, action: NfsStep) -> Option<NfsState> {
        let mut state = last.clone();
        let now = state.now;
        match action {
            NfsStep::Tick => state.now += 1,
            NfsStep::Lock(index) => self.lock(&mut state, index)?,
            NfsStep::SendProbe(index) => state.clients[index].probe = Some((now, None)),
            NfsStep::AnswerProbe(index) => self.answer(&mut state, index),
            NfsStep::ReceiveAnswer(index) => {
                let (sent, answer) = state.clients[index].probe.take()?;
                if answer? {
                    let from = if self.from_start { sent } else { now };
                    state.clients[index].believes_until = from + LEASE - self.margin;
                } else {
                    state.clients[index] = NfsClient::default();
                }
            }
            NfsStep::Unlock(index) => {
                state.clients[index] = NfsClient::default();
                if state.holder == Some(index) {
                    state.holder = None;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one believes", |_, state: &NfsState| state.believers().count() <= 1),
            Property::always("nobody was in between", |_, state: &NfsState| {
                !state.believers().any(|client| client.intruded)
            }),
        ]
    }
}

impl NfsState {
    fn believers(&self) -> impl Iterator<Item = &NfsClient> {
        self.clients.iter().filter(|client| client.has_lock && self.now < client.believes_until)
    }
}

impl NfsProbe {
    /// One call, atomic here: the lock is asked for, granted and known. The holder counts from then, as the call's start.
    fn lock(&self, state: &mut NfsState, index: usize) -> Option<()> {
        Self::drop_silent(state);
        if state.holder.is_some_and(|holder| holder != index) {
            return None;
        }
        state.holder = Some(index);
        state.heard[index] = state.now;
        let believes_until = state.now + LEASE - self.margin;
        state.clients[index] = NfsClient { has_lock: true, believes_until, ..NfsClient::default() };
        state.clients[1 - index].intruded = true;
        Some(())
    }

    fn answer(&self, state: &mut NfsState, index: usize) {
        if state.holder == Some(index) || (self.recovers_lost_locks && state.holder.is_none()) {
            state.holder = Some(index);
        }
        let good = state.holder == Some(index);
        state.heard[index] = state.now;
        if let Some((_, answer)) = &mut state.clients[index].probe {
            *answer = Some(good);
        }
    }

    /// The server forgets a client that it has not heard of for a lease, once somebody else asks.
    fn drop_silent(state: &mut NfsState) {
        if state.holder.is_some_and(|holder| state.now - state.heard[holder] >= LEASE) {
            state.holder = None;
        }
    }
}

const NFS: NfsProbe = NfsProbe { margin: 1, from_start: true, recovers_lost_locks: false };

#[test]
fn the_nfs_probe_excludes_when_the_belief_counts_from_its_start() {
    assert!(holds(NFS, "at most one believes"));
    assert!(holds(NfsProbe { margin: 0, ..NFS }, "at most one believes"), "the margin is for clocks that differ");
}

#[test]
fn the_nfs_probe_fails_when_the_client_recovers_lost_locks_by_itself() {
    assert!(holds(NFS, "nobody was in between"));
    assert!(!holds(NfsProbe { recovers_lost_locks: true, ..NFS }, "nobody was in between"));
}

#[test]
fn the_nfs_probe_fails_when_the_belief_counts_from_its_answer() {
    assert!(!holds(NfsProbe { from_start: false, ..NFS }, "at most one believes"));
}

#[test]
fn the_nfs_probe_fails_with_a_negative_margin() {
    assert!(!holds(NfsProbe { margin: -1, ..NFS }, "at most one believes"));
}
