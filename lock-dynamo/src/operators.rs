//! Operators' calls: inspect a lock, list the locks, break one.

use std::collections::HashSet;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use lock_core::{
    Error, ErrorKind, Holder, LockName,
    backend::{Break, LeaseId},
};

use crate::{
    acquire::Verdict,
    attributes::{Attribute, Schema},
    backend::{DynamoBackend, WriteOutcome},
    error::{convert, stranger},
    record::{Item, LockState, Record},
    write::ConditionalWrite,
};

impl DynamoBackend {
    /// Reads the item, strongly consistently.
    pub(crate) async fn item(&self, client: &Client, name: &LockName) -> Result<Option<Item>, Error> {
        let request = client.get_item().table_name(&self.config.table).set_key(Some(self.key(name)));
        let answer = request.consistent_read(true).send().await;
        Ok(answer.map_err(|error| convert(error, &self.config))?.item)
    }

    pub(crate) async fn look(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let item = self.item(self.patient_client().await?, name).await?;
        let Some(record) = item.map(|item| self.read(&item)) else { return Ok(None) };
        if record.is_stranger() {
            return Err(stranger(name, &self.config));
        }
        Ok(self.current(name, &record))
    }

    /// The current holder of the lock of `record`, if it is held.
    fn current(&self, name: &LockName, record: &Record) -> Option<Holder> {
        match self.judge(name, record) {
            Verdict::Free | Verdict::Dead => None,
            Verdict::Held(_) | Verdict::Undecided(_) => Some(self.holder(name, record)),
        }
    }

    /// Lists the held locks whose names begin with `prefix`, by an eventually consistent scan of
    /// the whole table.
    pub(crate) async fn scan(&self, prefix: &str) -> Result<Vec<(LockName, Holder)>, Error> {
        let client = self.patient_client().await?;
        let mut found = Vec::new();
        let mut start = None;
        let mut seen = HashSet::new();
        loop {
            let mut request = client.scan().table_name(&self.config.table).set_exclusive_start_key(start);
            request = self.filter(request, prefix);
            let page = request.send().await.map_err(|error| convert(error, &self.config))?;
            for item in page.items() {
                found.extend(self.listed(item));
            }
            start = page.last_evaluated_key;
            let Some(start) = &start else { break };
            let mut parts: Vec<_> = start.iter().map(|(name, value)| format!("{name} {value:?}")).collect();
            parts.sort_unstable();
            // DynamoDB never returns to a page, so this scan would not end.
            if !seen.insert(parts.concat()) {
                let message = "the scan does not end, because the server repeats a page; check that it is DynamoDB";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Lets the server filter out items that are not held locks with that prefix.
    fn filter(
        &self,
        request: aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder,
        prefix: &str,
    ) -> aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder {
        let layout = &self.config.layout;
        let mut filter = "attribute_exists(#version)".to_owned();
        let mut request = request.expression_attribute_names("#version", layout.name(Attribute::Version));
        if !layout.schema.deletes_on_release() {
            filter.push_str(" AND attribute_not_exists(#released)");
            request = request.expression_attribute_names("#released", layout.name(Attribute::Released));
        }
        if !prefix.is_empty() {
            filter.push_str(" AND begins_with(#key, :prefix)");
            request = request
                .expression_attribute_names("#key", layout.name(Attribute::Key))
                .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned()));
        }
        if let Some((sort, value)) = &layout.sort {
            filter.push_str(" AND #sort = :sort");
            request = request
                .expression_attribute_names("#sort", sort)
                .expression_attribute_values(":sort", AttributeValue::S(value.clone()));
        }
        request.filter_expression(filter)
    }

    fn listed(&self, item: &Item) -> Option<(LockName, Holder)> {
        // A key that is not a valid lock name (empty, too long) was not written by onelock.
        let key = item.get(self.config.layout.name(Attribute::Key)).and_then(|key| key.as_s().ok());
        let name = key.and_then(|key| LockName::new(key).ok())?;
        self.current(&name, &self.read(item)).map(|holder| (name, holder))
    }

    pub(crate) async fn take_away(&self, name: &LockName, seen: &str, by: &str) -> Result<Break, Error> {
        if self.config.layout.schema == Schema::Native && seen.parse::<LeaseId>().is_err() {
            // Not the version of a lock that onelock wrote.
            let item = self.item(self.client().await?, name).await?;
            return Ok(Break::Changed(item.and_then(|item| self.current(name, &self.read(&item)))));
        }
        let write = ConditionalWrite::break_lock(&self.config.layout, seen, by, self.clock.now(), self.idle());
        match self.update(name, write).await? {
            WriteOutcome::Done => Ok(Break::Broken),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                let held = record.filter(|record| record.state != LockState::Released);
                Ok(Break::Changed(held.and_then(|record| self.current(name, &record))))
            }
        }
    }
}
