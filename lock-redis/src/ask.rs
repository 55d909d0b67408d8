//! Asks all servers of a quorum at once, and does not wait for a server that is known to be silent.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lock_core::{Error, ErrorKind};
use tokio::time::Instant;

use crate::deployment::Deployment;

/// How many limits long a server counts as silent after an operation waited and got no answer.
///
/// Then an operation waits once more, because only a waiting caller can connect to a server that is
/// back. A limit is a tenth of the ttl at most, so a server is repaired within a ttl.
const SILENT_FOR: u32 = 5;

/// Asks all servers at once, and waits for each at most a fraction of the ttl.
#[derive(Debug)]
pub(crate) struct Quorum {
    servers: Vec<Member>,
    timeout: Duration,
}

/// A server of a quorum.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) address: String,
    pub(crate) deployment: Arc<Deployment>,
    /// Whether the last renewal found that this server lacks a lock that the majority confirms.
    pub(crate) incomplete: AtomicBool,
    /// When an operation last waited for this server and got no answer.
    silent: Mutex<Option<Instant>>,
}

impl Member {
    pub(crate) fn new(address: String, mut deployment: Deployment) -> Self {
        // Each server may answer otherwise, and none of them grants the lock alone.
        deployment.relays = false;
        let deployment = Arc::new(deployment);
        Self { address, deployment, incomplete: AtomicBool::new(false), silent: Mutex::default() }
    }

    fn is_silent(&self, limit: Duration) -> bool {
        let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.is_some_and(|since| since.elapsed() < limit * SILENT_FOR)
    }

    fn note(&self, silent: bool) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = silent.then(Instant::now);
    }
}

impl Quorum {
    pub(crate) fn new(servers: Vec<Member>, timeout: Duration) -> Self {
        Self { servers, timeout }
    }

    pub(crate) fn servers(&self) -> &[Member] {
        &self.servers
    }

    pub(crate) fn majority(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    /// How long one server may take to answer.
    pub(crate) fn limit(&self, ttl: Option<Duration>) -> Duration {
        ttl.map_or(self.timeout, |ttl| (ttl / 10).max(Duration::from_millis(20)).min(self.timeout))
    }

    /// Asks every server, with a limit far below `ttl`.
    ///
    /// Returns without the answers of silent servers once a majority gave answers with the same
    /// `vote`. An answer without a vote decides nothing.
    pub(crate) async fn ask<T, V, F>(
        &self,
        ttl: Option<Duration>,
        vote: impl Fn(&T) -> Option<V>,
        ask: impl Fn(Arc<Deployment>) -> F,
    ) -> Vec<Result<T, Error>>
    where
        V: PartialEq,
        F: Future<Output = Result<T, Error>>,
    {
        let limit = self.limit(ttl);
        let silent: Vec<_> = self.servers.iter().map(|member| member.is_silent(limit)).collect();
        let mut waiting: FuturesUnordered<_> = (0..self.servers.len())
            .map(|i| {
                let answer = tokio::time::timeout(limit, ask(Arc::clone(&self.servers[i].deployment)));
                async move { (i, answer.await) }
            })
            .collect();
        let mut answers: Vec<Option<Result<T, Error>>> = self.servers.iter().map(|_| None).collect();
        let mut votes = Vec::new();
        let start = Instant::now();
        while let Some((i, answer)) = waiting.next().await {
            let answer = answer.unwrap_or_else(|_| Err(late(limit)));
            match &answer {
                // An error without a wait repeats what an earlier attempt to connect found.
                Err(error) if error.kind() == ErrorKind::Timeout && start.elapsed() < limit / 2 => {}
                Err(error) => self.servers[i].note(error.kind() == ErrorKind::Timeout),
                Ok(answer) => {
                    self.servers[i].note(false);
                    votes.extend(vote(answer));
                }
            }
            answers[i] = Some(answer);
            let all = answers.iter().zip(&silent).all(|(answer, silent)| answer.is_some() || *silent);
            if all && votes.iter().any(|one| votes.iter().filter(|vote| *vote == one).count() >= self.majority()) {
                break;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(late(limit)))).collect()
    }
}

fn late(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("a server of the quorum did not answer within {limit:?}"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{Address, RedisConfig};

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn quorum() -> Quorum {
        let server = || Deployment::new(&RedisConfig::standalone(Address::tcp("h", 1))).unwrap();
        Quorum::new((0..3).map(|i| Member::new(i.to_string(), server())).collect(), TIMEOUT)
    }

    /// Asks with the given votes; a server without one never answers. Returns how long it took.
    async fn waited(quorum: &Quorum, votes: [Option<u8>; 3]) -> Duration {
        let start = Instant::now();
        let ask = |server: Arc<Deployment>| {
            let i = quorum.servers.iter().position(|member| Arc::ptr_eq(&member.deployment, &server)).unwrap();
            async move {
                match votes[i] {
                    Some(vote) => Ok(vote),
                    None => pending().await,
                }
            }
        };
        let answers = quorum.ask(None, |&vote| Some(vote), ask).await;
        assert_eq!(answers.into_iter().map(Result::ok).collect::<Vec<_>>(), votes);
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_costs_its_limit_once() {
        let quorum = quorum();
        assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, TIMEOUT);
        for _ in 0..9 {
            assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, Duration::ZERO);
        }
        // It may have come back, and only a waiting caller can connect to it.
        tokio::time::advance(TIMEOUT * SILENT_FOR).await;
        assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, TIMEOUT);
        // The answers of others are awaited.
        assert_eq!(waited(&quorum, [None, None, Some(1)]).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_awaited_while_its_vote_decides() {
        let quorum = quorum();
        assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, TIMEOUT);
        assert_eq!(waited(&quorum, [Some(1), None, Some(2)]).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_is_silent_no_longer() {
        let quorum = quorum();
        assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, TIMEOUT);
        // Its answer is the decisive one, so it is heard.
        assert_eq!(waited(&quorum, [Some(1), Some(1), Some(2)]).await, Duration::ZERO);
        assert_eq!(waited(&quorum, [Some(1), None, Some(1)]).await, TIMEOUT);
    }
}
