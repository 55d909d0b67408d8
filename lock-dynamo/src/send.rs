//! Sends the conditional writes.

use aws_sdk_dynamodb::{
    operation::{
        delete_item::DeleteItemError,
        update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    },
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure::AllOld},
};
use lock_core::{Error, LockName, backend::Lease};

use crate::{attributes::Attribute, backend::DynamoBackend, error::convert, record::Item, write::ConditionalWrite};

/// The result of a conditional write.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    Done,
    /// The condition did not hold; this is the item, if there is one.
    Refused(Option<Item>),
}

/// Sends a write under its condition. Here `UpdateItem` and `DeleteItem` differ only in their
/// types.
macro_rules! write_item {
    ($self:ident, $name:ident, $request:ident, $write:ident, $Error:ident) => {{
        let answer = $request
            .table_name(&$self.config.table)
            .set_key(Some($self.key($name)))
            .condition_expression($write.condition)
            // DynamoDB refuses an empty one.
            .set_expression_attribute_names(Some($write.names).filter(|names| !names.is_empty()))
            .set_expression_attribute_values(Some($write.values))
            .return_values_on_condition_check_failure(AllOld)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(Ok(answer.attributes)),
            Err(error) => match error.as_service_error() {
                Some($Error::ConditionalCheckFailedException(failed)) => Ok(Err(failed.item.clone())),
                _ => Err(convert(error, &$self.config)),
            },
        }
    }};
}

impl DynamoBackend {
    /// One conditional `UpdateItem`.
    pub(crate) async fn update(&self, name: &LockName, write: ConditionalWrite<'_>) -> Result<WriteOutcome, Error> {
        let written = self.update_and_return(name, write, None).await?;
        Ok(written.map_or_else(WriteOutcome::Refused, |_| WriteOutcome::Done))
    }

    /// One conditional `UpdateItem`, which returns the `returned` values, or the item that refused
    /// it.
    pub(crate) async fn update_and_return(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
        returned: Option<ReturnValue>,
    ) -> Result<Result<Option<Item>, Option<Item>>, Error> {
        let request = self.client().await?.update_item().set_return_values(returned);
        self.send(name, write, request).await
    }

    async fn send(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
        request: UpdateItemFluentBuilder,
    ) -> Result<Result<Option<Item>, Option<Item>>, Error> {
        let request = request.update_expression(write.expression());
        let version = AttributeValue::S(write.version.clone());
        let written: Result<_, Error> = write_item!(self, name, request, write, UpdateItemError);
        Ok(match written? {
            // The network delivered it twice: it was done before.
            Err(Some(item)) if item.get(self.config.layout.name(Attribute::Version)) == Some(&version) => Ok(None),
            written => written,
        })
    }

    pub(crate) async fn delete(&self, name: &LockName, write: ConditionalWrite<'_>) -> Result<WriteOutcome, Error> {
        let request = self.client().await?.delete_item();
        let written: Result<_, Error> = write_item!(self, name, request, write, DeleteItemError);
        Ok(written?.map_or_else(WriteOutcome::Refused, |_: Option<Item>| WriteOutcome::Done))
    }

    /// Makes `lease` last from now on, if its item still has this version.
    pub(crate) async fn correct(&self, lease: &Lease, version: &str) -> Result<WriteOutcome, Error> {
        self.write_again(
            &lease.name,
            ConditionalWrite::correct(&self.config.layout, lease, self.clock.now(), self.idle(), version),
        )
        .await
    }

    /// Writes an item that is ours already.
    pub(crate) async fn write_again(
        &self,
        name: &LockName,
        write: ConditionalWrite<'_>,
    ) -> Result<WriteOutcome, Error> {
        // The request before this one has taken effect, even if this one fails.
        self.update(name, write).await.map_err(|error| error.with_ambiguous(true))
    }
}
