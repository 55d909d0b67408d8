//! Operators' calls: inspect a lock, list the locks, break one.

use std::collections::HashSet;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use lock_core::{
    Error, ErrorKind, Holder, LockName,
    backend::{Break, End, LeaseId, Listing, OddEntry, PastHolder},
};

use crate::{
    acquire::Verdict,
    attributes::{Attribute, Schema},
    backend::DynamoBackend,
    error::{convert, stranger},
    record::{Item, Record},
    send::WriteOutcome,
    write::ConditionalWrite,
};

/// How many characters of a key that is not a name are shown: a key may have 2,048 bytes.
const SHOWN_KEY: usize = 100;

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

    /// The last holder of a free lock. No attribute has the time of a release.
    pub(crate) async fn look_back(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let item = self.item(self.patient_client().await?, name).await?;
        let record = item.map(|item| self.read(&item)).filter(|record| !record.is_stranger());
        let record = record.filter(|record| self.current(name, record).is_none());
        Ok(record.and_then(|record| match &record.joined {
            // Released parts do not name their holders any more.
            Some(joined) => self.crashed_holders(joined).map(|holder| PastHolder::new(holder, End::Crashed)),
            None => Some(record.past_holder()),
        }))
    }

    /// The current holder of the lock of `record`, if it is held.
    pub(crate) fn current(&self, name: &LockName, record: &Record) -> Option<Holder> {
        match self.judge(name, record) {
            Verdict::Free | Verdict::Dead => None,
            Verdict::Held(_) | Verdict::Undecided(_) => Some(self.holder(name, record)),
        }
    }

    /// Lists the held locks whose names begin with `prefix`, by an eventually consistent scan of
    /// the whole table. An item that has a version and is not a lock is an odd entry.
    pub(crate) async fn scan(&self, prefix: &str) -> Result<Listing, Error> {
        let client = self.patient_client().await?;
        let mut listing = Listing::default();
        let mut start = None;
        let mut seen = HashSet::new();
        loop {
            let mut request = client.scan().table_name(&self.config.table).set_exclusive_start_key(start);
            request = self.filter(request, prefix);
            let page = request.send().await.map_err(|error| convert(error, &self.config))?;
            for item in page.items() {
                self.add(item, &mut listing);
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
        listing.locks.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
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
            filter.push_str(" AND (attribute_not_exists(#released)");
            request = request.expression_attribute_names("#released", layout.name(Attribute::Released));
            if layout.has_modes() {
                filter.push_str(" OR attribute_exists(#parts)");
                request = request.expression_attribute_names("#parts", layout.name(Attribute::Parts));
            }
            filter.push(')');
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

    fn add(&self, item: &Item, listing: &mut Listing) {
        let text = item.get(self.config.layout.name(Attribute::Key)).and_then(|key| key.as_s().ok());
        let Some(name) = text.and_then(|key| LockName::new(key).ok()) else {
            let shown: String = text.map_or("", |key| key).chars().take(SHOWN_KEY).collect();
            let reason = "its key is not the name of a lock; delete the item, or use another table";
            return listing.note_odd(OddEntry::new(format!("the item \"{shown}\""), reason));
        };
        let record = self.read(item);
        if record.is_stranger() {
            let error = stranger(&name, &self.config).to_string();
            return listing.note_odd(OddEntry::new(format!("the item \"{name}\""), error));
        }
        listing.locks.extend(self.current(&name, &record).map(|holder| (name, holder)));
    }

    pub(crate) async fn take_away(&self, name: &LockName, seen: &str, by: &str) -> Result<Break, Error> {
        if let Some(broken) = self.break_part(name, seen, by).await? {
            return Ok(broken);
        }
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
                Ok(Break::Changed(record.and_then(|record| self.current(name, &record))))
            }
        }
    }
}
