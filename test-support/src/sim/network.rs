//! The network between clients and the store, which delays, loses, repeats and reorders messages.
//!
//! It has no sockets and no real time, unlike [`Proxy`](crate::Proxy) and
//! [`Wire`](crate::wire::Wire): one seed decides when each message arrives, so that a run can be
//! replayed. It also repeats and reorders messages, which no TCP connection does.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::messages::{Reply, ReplyTo, Request, Write};

/// A message on the network.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Request { client: usize, request: Request, reply_to: ReplyTo },
    Reply { reply: Reply, reply_to: ReplyTo },
    Write(Write),
}

/// The rate of faults in the network, which is chosen once for a simulation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) typical_ms: f64,
    pub(super) slow: f64,
    pub(super) slowest: Duration,
    pub(super) lost: f64,
    pub(super) repeated: f64,
}

impl Weather {
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        let mut up_to = |most: f64| if rng.bool() { most * rng.f64() } else { 0.0 };
        let (slow, lost, repeated) = (up_to(0.15), up_to(0.25), up_to(0.2));
        Self { typical_ms: 2.0 + 30.0 * rng.f64(), slow, slowest: Duration::from_secs(4), lost, repeated }
    }

    pub(super) fn calm() -> Self {
        Self { typical_ms: 5.0, slow: 0.0, slowest: Duration::ZERO, lost: 0.0, repeated: 0.0 }
    }
}

/// The messages in transit.
#[derive(Debug, Default)]
pub(super) struct Network {
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    messages: std::collections::HashMap<u64, Message>,
    sent: u64,
    /// The number of messages lost, repeated or delayed.
    pub(super) disturbed: u64,
}

impl Network {
    /// Sends `message` at `now`, with the faults of `weather`.
    pub(super) fn send(&mut self, now: Duration, message: &Message, weather: &Weather, rng: &mut fastrand::Rng) {
        let copies = if rng.f64() < weather.lost { 0 } else { 1 + usize::from(rng.f64() < weather.repeated) };
        self.disturbed += u64::from(copies != 1);
        for _ in 0..copies {
            let delay = if rng.f64() < weather.slow {
                self.disturbed += 1;
                weather.slowest.mul_f64(rng.f64())
            } else {
                Duration::from_secs_f64(weather.typical_ms * (0.2 + 1.6 * rng.f64()) / 1e3)
            };
            self.sent += 1;
            self.queue.push(Reverse((now + delay, self.sent)));
            self.messages.insert(self.sent, message.clone());
        }
    }

    /// Returns the next message that arrives by `now`, and the time of its arrival.
    pub(super) fn arrived(&mut self, now: Duration) -> Option<(Duration, Message)> {
        let &Reverse((at, id)) = self.queue.peek()?;
        if at > now {
            return None;
        }
        self.queue.pop();
        Some((at, self.messages.remove(&id).expect("a queued id has a message")))
    }
}
