//! Findings about a bucket: conditions, clock, rights.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, LockName,
    backend::{Finding, LeaseId},
};

use crate::{backend::ObjectBackend, store::Written};

impl ObjectBackend {
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let unused = LockName::new(format!("onelock-doctor-{}", LeaseId::random())).expect("a short name is valid");
        let mut findings = Vec::new();
        let started = self.clock.moment();
        let read = self.look(&unused).await.map(drop);
        let round_trip = self.clock.moment().since(started);
        if let Err(error) = &read
            && error.kind() == ErrorKind::StoreNotReady
        {
            return vec![Finding::unfit(self.config.container(), error.to_string())];
        }
        findings.push(permission("permission to read", &read));
        findings.push(self.conditions().await);
        findings.push(permission("permission to list", &self.list_held("onelock-doctor-").await.map(drop)));
        findings.push(distance(round_trip));
        findings.push(self.clock_finding());
        findings
    }

    /// Tries a condition that cannot hold, on a key without an object. A store that checks
    /// conditions changes nothing.
    async fn conditions(&self) -> Finding {
        let subject = "conditional writes";
        if self.probed.initialized() {
            return Finding::good(subject, "the store refused wrong conditions when this process started to lock");
        }
        let never = self.keys.never();
        match self.store.put(&never, b"{}".to_vec(), Some(&self.wrong_tag())).await {
            Ok(Written::Refused(status)) => {
                Finding::good(subject, format!("the store refused a wrong condition (status {})", status.as_u16()))
            }
            Ok(Written::Done(tag)) => {
                let _ = self.store.delete(&never, &tag).await;
                let text = "the store ignores conditions: it created an object by a PUT with If-Match";
                Finding::unfit(subject, text).advice("use a store that has conditional writes")
            }
            Err(error) => unanswered(subject, &error),
        }
    }

    fn clock_finding(&self) -> Finding {
        let skew = self.clock.skew(self.clock.moment());
        match skew.map(|micros| micros / 1_000_000) {
            None => Finding::note("clock", "the store has not shown its clock yet"),
            Some(0) => Finding::good("clock", "this machine's clock is the store's, as far as replies show"),
            Some(off) => {
                let text = format!(
                    "this machine's clock is {off:+} s off the store's; locks do not depend on it, but signatures do"
                );
                Finding::note("clock", text).advice("synchronise the clock with chrony or another NTP client")
            }
        }
    }
}

/// Judges the time of one request by the default ttl, which leaves 5 s for each of two attempts.
fn distance(round_trip: Duration) -> Finding {
    let text = format!("a read took {} ms", round_trip.as_millis());
    if round_trip > Duration::from_secs(1) {
        return Finding::warning("distance", text).advice("use a bucket in the region of the clients");
    }
    Finding::good("distance", text)
}

fn permission(subject: &str, tried: &Result<(), Error>) -> Finding {
    match tried {
        Ok(()) => Finding::good(subject, "granted"),
        Err(error) => unanswered(subject, error),
    }
}

/// Notes a check that the store did not answer.
fn unanswered(subject: &str, error: &Error) -> Finding {
    Finding::note(subject, format!("could not be checked: {error}"))
}
