//! Findings about a bucket: conditions, clock, rights.

use std::time::Duration;

use http::StatusCode;
use lock_core::{
    Error, ErrorKind, LockName,
    backend::{Finding, LeaseId},
};

use crate::{backend::ObjectBackend, http::Reply, store::Written};

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
        let prefix = self.config.prefix.clone();
        let judge = |reply: &Reply| versioning(reply, &prefix);
        findings.extend(self.setting("versioning", "versioning", "GetBucketVersioning", judge).await);
        let judge = |reply: &Reply| replication(&String::from_utf8_lossy(&reply.body), &prefix);
        findings.extend(self.setting("replication", "replication", "GetReplicationConfiguration", judge).await);
        findings
            .extend(self.setting("object lock", "object-lock", "GetBucketObjectLockConfiguration", retention).await);
        findings.push(self.clock_finding());
        findings
    }

    /// Tries a condition that cannot hold, on a key without an object. A store that checks
    /// conditions changes nothing.
    async fn conditions(&self) -> Finding {
        let subject = "conditional writes";
        if self.probed.known().is_some() {
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

    /// Asks about a setting of the bucket, and judges the answer.
    async fn setting(
        &self,
        subject: &str,
        setting: &str,
        right: &str,
        judge: impl Fn(&Reply) -> Finding + Send,
    ) -> Option<Finding> {
        let reply = match self.store.bucket_setting(setting).await {
            Ok(reply) => reply?,
            Err(error) => return Some(unanswered(subject, &error)),
        };
        Some(match reply.status {
            // Without such a setting S3 answers 404.
            StatusCode::OK | StatusCode::NOT_FOUND => judge(&reply),
            status => {
                let text = format!("could not be checked: the store answered with status {}", status.as_u16());
                Finding::note(subject, text).advice(format!("allow s3:{right}"))
            }
        })
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

fn versioning(reply: &Reply, prefix: &str) -> Finding {
    if reply.element("Status") != "Enabled" {
        return Finding::good("versioning", "off");
    }
    let rule = serde_json::json!({
        "ID": "onelock",
        "Status": "Enabled",
        "Filter": { "Prefix": prefix },
        "NoncurrentVersionExpiration": { "NoncurrentDays": 1 },
    });
    let advice = format!("use a bucket without versioning, or add this lifecycle rule to the bucket: {rule}");
    Finding::warning("versioning", "on: each renewal leaves an old version behind").advice(advice)
}

/// Finds a rule that replicates the locks to another bucket.
fn replication(xml: &str, prefix: &str) -> Finding {
    let element = |rule: &str, name: &str| {
        let inner = rule.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</"));
        inner.map(|(text, _)| text.to_owned()).unwrap_or_default()
    };
    let covers = |rule: &&str| {
        let of_rule = element(rule, "Prefix");
        element(rule, "Status") == "Enabled" && (prefix.starts_with(&of_rule) || of_rule.starts_with(prefix))
    };
    match xml.split("<Rule>").skip(1).find(covers) {
        None => Finding::good("replication", "none"),
        Some(rule) => {
            let text = format!(
                "the locks are replicated to {}: a lock that is held here can be acquired there, and a replica may \
                 replace a lock",
                element(rule, "Bucket")
            );
            Finding::unfit("replication", text).advice("leave the prefix of the locks out of the rule")
        }
    }
}

fn retention(reply: &Reply) -> Finding {
    if reply.element("ObjectLockEnabled") != "Enabled" {
        return Finding::good("object lock", "off");
    }
    Finding::warning("object lock", "on: old versions of locks are kept for the time of retention")
        .advice("use a bucket without object lock")
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

#[cfg(test)]
mod tests {
    use lock_core::backend::Level;

    use super::*;

    #[test]
    fn only_rules_that_cover_the_locks_are_unfit() {
        let rule = |status: &str, prefix: &str| {
            format!(
                "<Rule><Status>{status}</Status><Filter><Prefix>{prefix}</Prefix></Filter><Destination><Bucket>arn:b\
                 </Bucket></Destination></Rule>"
            )
        };
        for (rules, level) in [
            (rule("Enabled", ""), Level::Unfit),
            (rule("Enabled", "app/"), Level::Unfit),
            (rule("Enabled", "app/locks/deep/"), Level::Unfit),
            (rule("Enabled", "other/") + &rule("Enabled", "app"), Level::Unfit),
            (rule("Enabled", "other/"), Level::Good),
            (rule("Disabled", ""), Level::Good),
            (String::new(), Level::Good),
        ] {
            let xml = format!("<ReplicationConfiguration><Role>r</Role>{rules}</ReplicationConfiguration>");
            let finding = replication(&xml, "app/locks");
            assert_eq!(finding.level, level, "{xml}: {finding}");
        }
    }
}
