//! Diagnoses the table: reads how it is set up, and judges whether it is fit for locks.

use aws_sdk_dynamodb::types::{BillingMode, PointInTimeRecoveryStatus, TableDescription, TableStatus};
use lock_core::{
    Error, ErrorKind, LockName,
    backend::{Finding, Lease, LeaseId},
};

use crate::{
    attributes::{Attribute, Layout},
    backend::DynamoBackend,
    batches::Refusal,
    client::seconds,
    error::convert,
    table::{judge_keys, judge_regions},
};

impl DynamoBackend {
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let mut findings = match self.describe_table().await {
            Ok(Some(table)) => judge(&table, &self.config.layout),
            Ok(None) => {
                let text = format!("there is no table \"{}\" in this region", self.config.table);
                return vec![
                    Finding::unfit("table", text).advice("create it with onelock init, or correct table and region"),
                ];
            }
            Err(error) => vec![unanswered("table", &error, "DescribeTable")],
        };
        findings.push(self.idle_items().await);
        findings.push(self.backups().await);
        findings.extend(self.permissions().await);
        // Last, because every reply improves the estimate of the store's clock.
        findings.push(self.clock_finding());
        findings
    }

    async fn idle_items(&self) -> Finding {
        let ours = self.config.layout.name(Attribute::CollectAt);
        match self.collected_by().await {
            Ok(Some(attribute)) if !self.config.layout.has_ttl => {
                Finding::warning("idle items", collected_while_held(&attribute))
            }
            Ok(None) if !self.config.layout.has_ttl => {
                Finding::good("idle items", "never deleted: the other clients would not renew their TTL attribute")
            }
            Ok(Some(attribute)) if attribute == ours => {
                Finding::good("idle items", format!("deleted by TTL on \"{ours}\""))
            }
            Ok(Some(attribute)) => Finding::warning(
                "idle items",
                format!("never deleted: TTL is on for \"{attribute}\", but these locks write \"{ours}\""),
            )
            .advice(format!("set ttl_attribute={attribute}")),
            Ok(None) => Finding::warning("idle items", "never deleted: TTL is off")
                .advice(format!("switch TTL on for \"{ours}\" (onelock init)")),
            Err(error) => unanswered("idle items", &error, "DescribeTimeToLive"),
        }
    }

    async fn backups(&self) -> Finding {
        let answer = async {
            let request = self.patient_client().await?.describe_continuous_backups();
            let answer = request.table_name(&self.config.table).send().await;
            answer.map_err(|error| convert(error, &self.config))
        };
        let subject = "point-in-time recovery";
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(error) => return unanswered(subject, &error, "DescribeContinuousBackups"),
        };
        let status = answer
            .continuous_backups_description
            .and_then(|backups| backups.point_in_time_recovery_description?.point_in_time_recovery_status);
        match status {
            Some(PointInTimeRecoveryStatus::Enabled) => {
                Finding::note(subject, "on; old locks are worthless, and recovery costs by the size of the table")
            }
            _ => Finding::good(subject, "off; locks need no recovery"),
        }
    }

    /// Tests permissions without changing anything: reads unused names, and renews leases that do
    /// not exist. The caller of the diagnosis tests locking itself.
    async fn permissions(&self) -> Vec<Finding> {
        let unused = || LockName::new(format!("onelock-doctor-{}", LeaseId::random())).expect("a short name is valid");
        let (inspected, listed) = (self.look(&unused()).await.map(drop), self.first_page().await);
        let leases = [(); 2].map(|()| Lease::new(unused(), LeaseId::random()));
        let batch = self.renew_batch(&leases).await;
        let looking =
            match inspected.err().map(|error| ("GetItem", error)).or(listed.err().map(|error| ("Scan", error))) {
                None => Finding::good("permission to read", "GetItem and Scan: inspect and list work"),
                Some((operation, error)) => unanswered("permission to read", &error, operation),
            };
        let batches = match batch.and_then(|renewals| renewals.into_iter().find_map(Result::err)) {
            Some(error) => unanswered("batches of renewals", &error, "PartiQLUpdate"),
            None => match self.batches.refusal() {
                None => Finding::good("batches of renewals", "25 locks of a process are renewed in one request"),
                Some(refusal) => {
                    let finding = Finding::note("batches of renewals", format!("{refusal}: renewals go one by one"));
                    match refusal {
                        Refusal::Denied => finding.advice("allow dynamodb:PartiQLUpdate if a process holds many locks"),
                        Refusal::Unknown => finding,
                    }
                }
            },
        };
        vec![looking, batches]
    }

    async fn first_page(&self) -> Result<(), Error> {
        let request = self.patient_client().await?.scan().table_name(&self.config.table).limit(1);
        request.send().await.map(drop).map_err(|error| convert(error, &self.config))
    }

    fn clock_finding(&self) -> Finding {
        let now = self.clock.moment();
        let bound = self.config.skew_bound;
        match self.clock.skew(now) {
            None => Finding::note(
                "clock",
                "the replies have no Date header, so this machine cannot take over a dead \
                holder's lock by time",
            ),
            Some(_) if self.clock.is_trusted(now) => Finding::good(
                "clock",
                format!(
                    "within half of the skew bound ({bound:?}) of DynamoDB's, as far as \
                    replies show"
                ),
            ),
            Some(skew) => Finding::warning(
                "clock",
                format!(
                    "{:+.1} s off DynamoDB's: this machine cannot take over a dead holder's lock by time (skew \
                    bound {bound:?})",
                    seconds(skew)
                ),
            )
            .advice("synchronise the clock with chrony or another NTP client"),
        }
    }
}

fn judge(table: &TableDescription, layout: &Layout) -> Vec<Finding> {
    let mut findings = vec![status(table)];
    let problems = judge_keys(table, layout);
    if problems.is_empty() {
        findings.push(Finding::good("keys", format!("those of schema {}", layout.schema)));
    }
    findings.extend(problems.into_iter().map(|problem| Finding::unfit("keys", problem)));
    findings.push(billing(table));
    findings.push(match judge_regions(table) {
        Ok(None) => Finding::good("regions", "one"),
        Ok(Some(regions)) => Finding::note("regions", format!("{regions}, strongly consistent")),
        Err(problem) => Finding::unfit("regions", problem).advice("use a table of one region"),
    });
    if !table.local_secondary_indexes().is_empty() || !table.global_secondary_indexes().is_empty() {
        findings.push(
            Finding::warning("indexes", "each makes every write more expensive")
                .advice("use a separate table for locks"),
        );
    }
    findings.push(match table.deletion_protection_enabled() {
        Some(true) => Finding::good("deletion protection", "on"),
        _ => Finding::note("deletion protection", "off: deleting the table ends all locks")
            .advice("run onelock init --deletion-protection"),
    });
    findings
}

fn status(table: &TableDescription) -> Finding {
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => Finding::good("table", "active"),
        Some(status) => Finding::unfit("table", format!("its status is {status}")).advice("wait until it is active"),
        None => Finding::note("table", "DynamoDB does not say whether it is active"),
    }
}

fn billing(table: &TableDescription) -> Finding {
    let on_demand =
        table.billing_mode_summary().and_then(|summary| summary.billing_mode()) == Some(&BillingMode::PayPerRequest);
    if on_demand {
        return Finding::good("billing", "on demand");
    }
    let capacity = table.provisioned_throughput().and_then(|throughput| throughput.write_capacity_units()).unwrap_or(0);
    Finding::warning(
        "billing",
        format!("{capacity} write units are provisioned: above them, renewals are throttled and locks are lost"),
    )
    .advice("change it to on-demand, or provision for every renewal and every attempt")
}

/// The warning about a TTL attribute that only other clients write.
pub(crate) fn collected_while_held(attribute: &str) -> String {
    format!(
        "TTL deletes items by the attribute \"{attribute}\", which these locks do not write, so it may delete the \
         item of a held lock; turn TTL off, or set ttl_attribute={attribute} if all clients write it"
    )
}

/// Notes a failed check, and the permission that may be missing.
fn unanswered(subject: &str, error: &Error, operation: &str) -> Finding {
    let finding = Finding::note(subject, format!("could not be checked: {error}"));
    if error.kind() == ErrorKind::PermissionDenied {
        return finding.advice(format!("allow dynamodb:{operation}"));
    }
    finding
}
