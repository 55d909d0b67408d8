//! Runs the conformance suite on DynamoDB Local, in each schema.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Tampering},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::fixture::{SKEW, Table};

#[async_trait]
impl Subject for Table {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(DynamoBackend::new(self.config()))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1_000)
    }

    /// A dead holder's lock becomes free one skew bound after its ttl.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + SKEW + Duration::from_millis(20)).await;
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            // The token is kept in the item.
            Tampering::DeleteRecord | Tampering::DeleteToken => self.delete_item(name).await,
            Tampering::ReplaceRecord => self.put_foreign_item(name).await,
            Tampering::AddOddEntry => self.put_item_that_is_no_lock(name).await,
            _ => return false,
        }
        true
    }
}

/// The suite in one schema. What no schema can do is excepted in each of them, and what needs
/// tokens in those that say why they have none.
macro_rules! in_schema {
    ($module:ident, $schema:ident, without_tokens = $reason:literal, except = [$($more:tt)*]) => {
        in_schema! {
            $module, $schema, except = [
                (fencing_tokens_increase_across_every_release, $reason),
                (the_next_token_exceeds_an_advanced_token, $reason),
                (fencing_tokens_increase_across_lease_expiry, $reason),
                (fencing_tokens_increase_across_a_forced_break, $reason),
                (fencing_tokens_increase_after_their_record_is_deleted, $reason),
                (hand_over, $reason),
                $($more)*
            ]
        }
    };
    ($module:ident, $schema:ident, except = [$($more:tt)*]) => {
        mod $module {
            use super::*;

            lock_core::conformance! {
                #[tokio::test]
                Table::new(Schema::$schema).await,
                except = [
                    (an_open_descriptor_keeps_the_lock_held, "the lock lives in a table"),
                    (a_watch_completes_after_the_release, "DynamoDB cannot wake anybody up"),
                    (an_unused_wake_up_reaches_another_watcher, "DynamoDB cannot wake anybody up"),
                    $($more)*
                ]
            }
        }
    };
}

in_schema! { native, Native, except = [] }
in_schema! {
    java, Java, without_tokens = "the Java client replaces the item, and a token in it",
    except = [(modes, "the Java client knows one holder"), (fair, "the Java client would not look at a queue")]
}
in_schema! {
    go, Go, without_tokens = "the Go client may delete the item, and a token in it",
    except = [(modes, "the Go client knows one holder"), (fair, "the Go client would not look at a queue")]
}
in_schema! {
    python, Python, without_tokens = "the Python client deletes the item, and a token in it",
    except = [
        (modes, "the Python client knows one holder"),
        (fair, "the Python client would not look at a queue"),
        (the_next_renewal_reports_a_broken_lease, "a free lock is a deleted item, which has no place for a trace"),
        (breaking_requires_the_current_lock_version, "a free lock is a deleted item, which has no place for a trace"),
        (releasing_a_broken_lease_reports_not_held, "a free lock is a deleted item, which has no place for a trace"),
    ]
}
