//! Tells when a cluster client may have sent a request twice.
//!
//! redis-rs repeats a request to a cluster by itself if its connection ends, and returns only the
//! last answer. "Not held" may then be the answer to the repetition of a release that freed the
//! lock.

use std::sync::atomic::Ordering;

use lock_core::{Error, ErrorKind};

use crate::connection::ConnectionSlot;

/// A request that is about to be sent.
pub(crate) struct Sending<'a> {
    connection: &'a ConnectionSlot,
    /// How many connections had ended before.
    ended: u64,
}

impl ConnectionSlot {
    /// Notes that a request is about to be sent, to ask about repetitions after its answer.
    pub(crate) fn sending(&self) -> Sending<'_> {
        Sending { connection: self, ended: self.ended_connections.load(Ordering::Acquire) }
    }
}

impl Sending<'_> {
    /// Returns whether an earlier copy of the request may have run, because a connection has ended
    /// since.
    ///
    /// A node that redirects or refuses a request has not run it. After a timeout there is no
    /// repetition, because redis-rs then ends the whole request.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.connection.is_cluster() && self.connection.ended_connections.load(Ordering::Acquire) != self.ended
    }
}

/// The error for an answer that does not tell what an earlier copy of the request did.
pub(crate) fn repeated() -> Error {
    let message = "a connection to the Redis cluster ended during the request, and its last answer does not tell \
        whether an earlier copy had an effect; repeat the request, or look at the lock";
    Error::new(ErrorKind::Unavailable, message)
}
