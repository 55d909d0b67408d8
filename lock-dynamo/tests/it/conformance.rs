//! The conformance kit on DynamoDB Local, in each schema.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Vandalism},
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

    async fn vandalise(&self, what: Vandalism, name: &LockName) -> bool {
        match what {
            // The token is kept in the item.
            Vandalism::DeleteRecord | Vandalism::DeleteToken => self.delete_item(name).await,
            Vandalism::ReplaceRecord => self.put_foreign_item(name).await,
            _ => return false,
        }
        true
    }
}

mod native {
    use super::*;

    lock_core::conformance! {
        #[tokio::test]
        Table::new(Schema::Native).await,
        except = [
            (a_descriptor_keeps_the_lock_held, "the lock lives in a table"),
            (a_watch_sees_the_release, "DynamoDB cannot wake anybody up"),
            (a_wake_up_that_is_not_used_is_passed_on, "DynamoDB cannot wake anybody up"),
        ]
    }
}

mod java {
    use super::*;

    lock_core::conformance! {
        #[tokio::test]
        Table::new(Schema::Java).await,
        except = [
            (a_descriptor_keeps_the_lock_held, "the lock lives in a table"),
            (a_watch_sees_the_release, "DynamoDB cannot wake anybody up"),
            (a_wake_up_that_is_not_used_is_passed_on, "DynamoDB cannot wake anybody up"),
            (tokens_rise_across_release, "the Java client replaces the item, and a token in it"),
            (a_raised_token_is_exceeded_by_the_next, "the Java client replaces the item, and a token in it"),
            (tokens_rise_across_expiry, "the Java client replaces the item, and a token in it"),
            (tokens_rise_across_break, "the Java client replaces the item, and a token in it"),
            (tokens_rise_although_their_record_was_deleted, "the Java client replaces the item, and a token in it"),
        ]
    }
}

mod go {
    use super::*;

    lock_core::conformance! {
        #[tokio::test]
        Table::new(Schema::Go).await,
        except = [
            (a_descriptor_keeps_the_lock_held, "the lock lives in a table"),
            (a_watch_sees_the_release, "DynamoDB cannot wake anybody up"),
            (a_wake_up_that_is_not_used_is_passed_on, "DynamoDB cannot wake anybody up"),
            (tokens_rise_across_release, "the Go client may delete the item, and a token in it"),
            (a_raised_token_is_exceeded_by_the_next, "the Go client may delete the item, and a token in it"),
            (tokens_rise_across_expiry, "the Go client may delete the item, and a token in it"),
            (tokens_rise_across_break, "the Go client may delete the item, and a token in it"),
            (tokens_rise_although_their_record_was_deleted, "the Go client may delete the item, and a token in it"),
        ]
    }
}

mod python {
    use super::*;

    lock_core::conformance! {
        #[tokio::test]
        Table::new(Schema::Python).await,
        except = [
            (a_descriptor_keeps_the_lock_held, "the lock lives in a table"),
            (a_watch_sees_the_release, "DynamoDB cannot wake anybody up"),
            (a_wake_up_that_is_not_used_is_passed_on, "DynamoDB cannot wake anybody up"),
            (tokens_rise_across_release, "the Python client deletes the item, and a token in it"),
            (a_raised_token_is_exceeded_by_the_next, "the Python client deletes the item, and a token in it"),
            (tokens_rise_across_expiry, "the Python client deletes the item, and a token in it"),
            (tokens_rise_across_break, "the Python client deletes the item, and a token in it"),
            (tokens_rise_although_their_record_was_deleted, "the Python client deletes the item, and a token in it"),
            (a_broken_lease_is_lost_at_the_next_renewal, "a free lock is a deleted item, which has no place for a trace"),
            (break_compares_the_version, "a free lock is a deleted item, which has no place for a trace"),
            (releasing_a_broken_lease_is_a_value, "a free lock is a deleted item, which has no place for a trace"),
        ]
    }
}
