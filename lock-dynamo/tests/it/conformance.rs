//! The conformance kit on DynamoDB Local, in each schema.

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

    /// A dead holder's lock is free a skew bound after its ttl.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + SKEW + Duration::from_millis(20)).await;
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            // The token is kept in the item.
            Tampering::DeleteRecord | Tampering::DeleteToken => self.delete_item(name).await,
            Tampering::ReplaceRecord => self.put_foreign_item(name).await,
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
                (tokens_rise_across_release, $reason),
                (a_raised_token_is_exceeded_by_the_next, $reason),
                (tokens_rise_across_expiry, $reason),
                (tokens_rise_across_break, $reason),
                (tokens_rise_although_their_record_was_deleted, $reason),
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
                    (a_descriptor_keeps_the_lock_held, "the lock lives in a table"),
                    (a_watch_sees_the_release, "DynamoDB cannot wake anybody up"),
                    (a_wake_up_that_is_not_used_is_passed_on, "DynamoDB cannot wake anybody up"),
                    $($more)*
                ]
            }
        }
    };
}

in_schema! { native, Native, except = [] }
in_schema! { java, Java, without_tokens = "the Java client replaces the item, and a token in it", except = [] }
in_schema! { go, Go, without_tokens = "the Go client may delete the item, and a token in it", except = [] }
in_schema! {
    python, Python, without_tokens = "the Python client deletes the item, and a token in it",
    except = [
        (a_broken_lease_is_lost_at_the_next_renewal, "a free lock is a deleted item, which has no place for a trace"),
        (break_compares_the_version, "a free lock is a deleted item, which has no place for a trace"),
        (releasing_a_broken_lease_is_a_value, "a free lock is a deleted item, which has no place for a trace"),
    ]
}
