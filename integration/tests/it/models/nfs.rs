//! A model of the rule by which a holder on NFSv4.1 knows that it still has its lock.

use stateright::{Model, Property};

use super::holds;

/// The end of the model's time: two leases one after the other, and enough time to misjudge them.
const END: i8 = 9;

/// A model with two clients of an NFSv4.1 server, one lock, and the probe that tells a holder
/// whether its client's lease is still valid.
///
/// A probe is one read through the locked descriptor. The server answers it at some time, and the
/// answer arrives later, or never. A good answer proves that the lock was held at that time, and
/// renews the client's lease on the server. So the holder considers its lock valid until
/// `LEASE - MARGIN` after the *start* of its last good probe.
///
/// # Assumptions
/// - The server keeps the locks of a client for a whole `LEASE` after the last request of the
///   client arrived.
/// - If the server has dropped the lock, this and all later probes are answered with EIO: the
///   client does not recover lost locks by itself (`nfs.recover_lost_locks=0`).
#[derive(Debug, Clone)]
struct NfsProbe {
    margin: i8,
    /// The validity counts from the start of the probe, and not from its answer.
    from_start: bool,
    /// The client silently locks again after a loss if it can, and then the probe succeeds.
    recovers_lost_locks: bool,
}

const LEASE: i8 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NfsState {
    now: i8,
    /// The holder of the lock according to the server.
    holder: Option<usize>,
    /// The time of the last request of each client at the server.
    heard: [i8; 2],
    clients: [NfsClient; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct NfsClient {
    has_lock: bool,
    believes_until: i8,
    /// The other client has held the lock since.
    intruded: bool,
    /// The time of a probe that was sent, and, after its answer, whether the answer was good.
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
            Property::always("at most one client considers its lock valid", |_, state: &NfsState| {
                state.believers().count() <= 1
            }),
            Property::always("no client held the lock in between", |_, state: &NfsState| {
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
    /// Locks in one call, which is atomic here. The validity counts from this time, which is the
    /// start of the call.
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

    /// Makes the server forget a client that was silent for a lease, when the other client asks.
    fn drop_silent(state: &mut NfsState) {
        if state.holder.is_some_and(|holder| state.now - state.heard[holder] >= LEASE) {
            state.holder = None;
        }
    }
}

const NFS: NfsProbe = NfsProbe { margin: 1, from_start: true, recovers_lost_locks: false };

#[test]
// verifies: P1
fn the_nfs_probe_excludes_if_validity_counts_from_its_start() {
    assert!(holds(NFS, "at most one client considers its lock valid"));
    assert!(
        holds(NfsProbe { margin: 0, ..NFS }, "at most one client considers its lock valid"),
        "equal clocks exclude without a margin, which allows for clocks that differ"
    );
}

#[test]
fn the_nfs_probe_fails_if_the_client_recovers_lost_locks() {
    assert!(holds(NFS, "no client held the lock in between"));
    assert!(!holds(NfsProbe { recovers_lost_locks: true, ..NFS }, "no client held the lock in between"));
}

#[test]
fn the_nfs_probe_fails_if_validity_counts_from_its_answer() {
    assert!(!holds(NfsProbe { from_start: false, ..NFS }, "at most one client considers its lock valid"));
}

#[test]
fn the_nfs_probe_fails_with_a_negative_margin() {
    assert!(!holds(NfsProbe { margin: -1, ..NFS }, "at most one client considers its lock valid"));
}
