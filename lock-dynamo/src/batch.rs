//! Batches renewals: up to 25 conditional PartiQL updates in one request, each with its own result.

use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata,
    types::{
        AttributeValue, BatchStatementError, BatchStatementErrorCodeEnum as Code, BatchStatementRequest,
        BatchStatementResponse, ReturnValuesOnConditionCheckFailure::AllOld,
    },
};
use futures_util::future::{join, join_all};
use lock_core::{
    Error, ErrorKind,
    backend::{Backend, Lease, Renewal},
};

use crate::{
    attributes::Attribute,
    backend::DynamoBackend,
    batches::{self, Refusal},
    error::{convert, of_code},
    send::WriteOutcome,
    write::ConditionalWrite,
};

impl DynamoBackend {
    /// Renews exclusive locks in one request, and each part of a lock with several holders by its
    /// own.
    pub(crate) async fn renew_all(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let is_part = |lease: &&Lease| lease.mode.may_be_joined();
        let exclusive: Vec<Lease> = leases.iter().filter(|lease| !is_part(lease)).cloned().collect();
        let batch = async {
            let fits = exclusive.len() > 1 && self.batches.refusal().is_none() && batches::are_distinct(&exclusive);
            match if fits { self.renew_batch(&exclusive).await } else { None } {
                Some(renewals) => renewals,
                None => join_all(exclusive.iter().map(|lease| self.renew(lease))).await,
            }
        };
        let parts = join_all(leases.iter().filter(is_part).map(|lease| self.renew(lease)));
        let (exclusive, parts) = join(batch, parts).await;
        let (mut exclusive, mut parts) = (exclusive.into_iter(), parts.into_iter());
        let answer = |lease| if is_part(&lease) { parts.next() } else { exclusive.next() };
        leases.iter().map(answer).map(|answer| answer.expect("each lease has an answer")).collect()
    }

    /// Renews all `leases` in one request. Returns `None`, with nothing done, if the store refuses
    /// batches.
    pub(crate) async fn renew_batch(&self, leases: &[Lease]) -> Option<Vec<Result<Renewal, Error>>> {
        let now = self.clock.now();
        let writes: Vec<_> = leases
            .iter()
            .map(|lease| ConditionalWrite::renew_in_batch(&self.config.layout, lease, now, self.idle()))
            .collect();
        let answers = match self.execute(leases, &writes).await {
            // If the permission is missing, the whole request is refused, or each of its
            // statements.
            Ok(Ok(answers)) if answers.iter().all(is_denied) => Err(Refusal::Denied),
            Ok(answers) => answers,
            Err(error) => return Some(vec![Err(error); leases.len()]),
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(refusal) => {
                tracing::info!(table = %self.config.table, "batched renewals disabled, renewing one by one: {refusal}");
                self.batches.refuse(refusal);
                return None;
            }
        };
        // Concurrently, so that a request that hangs for one lease delays no other.
        let renewals = leases.iter().zip(writes).zip(answers).map(async |((lease, write), answer)| {
            if is_denied(&answer) {
                return self.renew(lease).await;
            }
            match self.answered(answer)? {
                // The item is gone, or the server returns none from a batch (DynamoDB Local): renew
                // singly to learn the reason.
                WriteOutcome::Refused(None) => self.renew(lease).await,
                written => self.settle(lease, now, write.version, written).await,
            }
        });
        Some(join_all(renewals).await)
    }

    /// Returns the results in the order of the leases, or why the whole request was refused.
    async fn execute(
        &self,
        leases: &[Lease],
        writes: &[ConditionalWrite<'_>],
    ) -> Result<Result<Vec<BatchStatementResponse>, Refusal>, Error> {
        let statements = leases.iter().zip(writes).map(|(lease, write)| {
            let (text, parameters) = write.statement(&self.config.table, lease.name.as_str());
            let request = BatchStatementRequest::builder().statement(text).set_parameters(Some(parameters));
            request.return_values_on_condition_check_failure(AllOld).build().expect("the statement is set")
        });
        let request = self.client().await?.batch_execute_statement().set_statements(Some(statements.collect()));
        let answers = match request.send().await {
            Ok(answer) => answer.responses.unwrap_or_default(),
            Err(error) => {
                return match error.code() {
                    Some("AccessDeniedException") => Ok(Err(Refusal::Denied)),
                    Some("UnknownOperationException") => Ok(Err(Refusal::Unknown)),
                    // Errors that single renewals would get as well, such as expired credentials.
                    _ => Err(convert(error, &self.config)),
                };
            }
        };
        if answers.len() == leases.len() {
            return Ok(Ok(answers));
        }
        Err(Error::new(ErrorKind::Unavailable, "DynamoDB answered only part of a batch of renewals; they are retried"))
    }

    fn answered(&self, answer: BatchStatementResponse) -> Result<WriteOutcome, Error> {
        match answer.error {
            None => Ok(WriteOutcome::Done),
            Some(BatchStatementError { code: Some(Code::ConditionalCheckFailed), item, .. }) => {
                Ok(WriteOutcome::Refused(item))
            }
            Some(error) => {
                Err(of_code(error.code.as_ref(), error.message.as_deref().unwrap_or_default(), &self.config))
            }
        }
    }
}

impl ConditionalWrite<'_> {
    /// Renders this write as one PartiQL statement, with its parameters in order of appearance.
    fn statement(&self, table: &str, key: &str) -> (String, Vec<AttributeValue>) {
        let mut parameters = Vec::with_capacity(self.values.len() + 2);
        let sets = self.expression().trim_start_matches("SET ").replace(", ", " SET ");
        let mut text = format!("UPDATE {} SET {}", quoted(table), self.resolved(&sets, &mut parameters));
        text += &format!(" WHERE {} = ?", quoted(self.layout.name(Attribute::Key)));
        parameters.push(AttributeValue::S(key.to_owned()));
        if let Some((sort, value)) = &self.layout.sort {
            text += &format!(" AND {} = ?", quoted(sort));
            parameters.push(AttributeValue::S(value.clone()));
        }
        let condition = self.resolved(&self.condition, &mut parameters);
        (format!("{text} AND {condition}"), parameters)
    }

    /// Replaces the placeholders in `expression` with PartiQL's names and parameters.
    fn resolved(&self, expression: &str, parameters: &mut Vec<AttributeValue>) -> String {
        let mut words = Vec::new();
        for word in expression.split(' ') {
            let missing = word.strip_prefix("attribute_not_exists(").and_then(|word| word.strip_suffix(')'));
            let bare = missing.unwrap_or(word);
            let begin = bare.find(['#', ':']).unwrap_or(bare.len());
            let end = bare[begin..].find([',', ')']).map_or(bare.len(), |length| begin + length);
            let placeholder = &bare[begin..end];
            let mut resolved = match (self.names.get(placeholder), self.values.get(placeholder)) {
                (Some(name), _) => format!("{}{}{}", &bare[..begin], quoted(name), &bare[end..]),
                (_, Some(value)) => {
                    parameters.push(value.clone());
                    format!("{}?{}", &bare[..begin], &bare[end..])
                }
                (None, None) => bare.to_owned(),
            };
            if missing.is_some() {
                resolved += " IS MISSING";
            }
            words.push(resolved);
        }
        words.join(" ")
    }
}

fn is_denied(answer: &BatchStatementResponse) -> bool {
    matches!(answer.error, Some(BatchStatementError { code: Some(Code::AccessDenied), .. }))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::{
        LockName,
        backend::{LeaseId, StoreTime},
        clock::ClockReading,
    };

    use super::*;
    use crate::{
        attributes::{Layout, Schema},
        write::Idle,
    };

    #[test]
    fn a_renewal_as_a_statement_has_the_same_conditions() {
        let lease = Lease::new(LockName::new("a\"b").unwrap(), LeaseId::from(1)).with_ttl(Duration::from_secs(30));
        let now = StoreTime::new(ClockReading { boot: Duration::ZERO, wall: Duration::ZERO }, 0);
        for (schema, expected) in [
            (
                Schema::Native,
                "UPDATE \"ta\"\"ble\" SET \"version\" = ? SET \"ttl_ms\" = ? SET \"expires_at\" = ? SET \
                 \"collect_at\" = ? WHERE \"key\" = ? \
                 AND begins_with(\"version\", ?) AND \"free_at\" IS MISSING AND \"released\" IS MISSING AND \
                 \"expires_at\" <= ?",
            ),
            (
                Schema::Python,
                "UPDATE \"ta\"\"ble\" SET \"record_version_number\" = ? SET \"onelock_ttl_ms\" = ? SET \
                 \"lease_duration\" = ? SET \"onelock_expires_at\" = ? \
                 SET \"expiry_time\" = ? WHERE \"lock_key\" = ? AND \"sort_key\" = ? AND \
                 begins_with(\"record_version_number\", ?) \
                 AND \"onelock_free_at\" IS MISSING AND \"onelock_expires_at\" <= ?",
            ),
        ] {
            let layout = Layout::of(schema);
            let write = ConditionalWrite::renew_in_batch(&layout, &lease, now, Idle(Duration::ZERO));
            let (text, parameters) = write.statement("ta\"ble", lease.name.as_str());
            assert_eq!(text, expected);
            assert_eq!(parameters.len(), text.matches('?').count());
            assert!(parameters.contains(&AttributeValue::S("a\"b".into())));
        }
    }
}
