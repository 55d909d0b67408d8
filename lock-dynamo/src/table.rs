//! Creates the table, and checks an existing one.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, MultiRegionConsistency,
    PointInTimeRecoverySpecification, ScalarAttributeType, TableDescription, TableStatus, Tag, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use lock_core::{Error, ErrorKind, Operation};

use crate::{
    attributes::{Attribute, Layout},
    backend::DynamoBackend,
    doctor::collected_while_held,
    error::convert,
};

/// Options of [`DynamoBackend::init`] for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    collect_idle: bool,
    point_in_time_recovery: bool,
    deletion_protection: bool,
    tags: BTreeMap<String, String>,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { collect_idle: true, point_in_time_recovery: false, deletion_protection: false, tags: BTreeMap::new() }
    }
}

impl TableOptions {
    /// Sets whether DynamoDB deletes items that have been idle for long (its TTL). Default yes,
    /// except in a schema whose items have no [TTL attribute](crate::DynamoConfig::ttl_attribute).
    #[must_use]
    pub fn collect_idle(mut self, on: bool) -> Self {
        self.collect_idle = on;
        self
    }

    /// Sets whether to turn on point-in-time recovery. Default no, because old locks are worthless.
    /// `false` leaves it as it is.
    #[must_use]
    pub fn point_in_time_recovery(mut self, on: bool) -> Self {
        self.point_in_time_recovery = on;
        self
    }

    /// Sets whether to protect the table from deletion. Default no; `false` leaves it as it is.
    #[must_use]
    pub fn deletion_protection(mut self, on: bool) -> Self {
        self.deletion_protection = on;
        self
    }

    /// Adds a tag to the table.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// The findings of [`DynamoBackend::check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "problems need to be read and fixed"]
pub struct TableCheck {
    /// Problems that keep locks from working on this table until they are fixed.
    pub problems: Vec<String>,
    /// Findings that do not keep locks from working.
    pub warnings: Vec<String>,
}

/// Limit on the time that a new table takes to become active.
const CREATION: Duration = Duration::from_secs(120);

impl DynamoBackend {
    /// Creates the table if it does not exist, and applies the options. Can be repeated. Returns
    /// `true` if this call created the table.
    ///
    /// Needs more permissions than locking does; `docs/dynamodb.md` lists them.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::StoreNotReady`], with all problems, if the table exists but is not fit
    /// for these locks. Other kinds if DynamoDB refuses or does not answer.
    ///
    /// # Cancel safety
    /// Not cancel safe: completed steps are not rolled back. Repeat the call to complete the rest.
    pub async fn init(&self, options: &TableOptions) -> Result<bool, Error> {
        self.init_table(options)
            .await
            .map_err(|error| error.with_operation(Operation::Open).with_store(self.config.name()))
    }

    /// Checks the table and reports its problems, without changing anything.
    ///
    /// # Errors
    /// If DynamoDB refuses or does not answer. A missing table is a problem, not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn check(&self) -> Result<TableCheck, Error> {
        let found = async {
            let Some(table) = self.describe_table().await? else {
                let problems = vec![format!("there is no table \"{}\" in this region", self.config.table)];
                return Ok(TableCheck { problems, ..TableCheck::default() });
            };
            let mut found = judge(&table, &self.config.layout);
            found.warnings.extend(self.judge_collection().await?);
            Ok(found)
        };
        found.await.map_err(|error: Error| error.with_operation(Operation::Open).with_store(self.config.name()))
    }

    async fn init_table(&self, options: &TableOptions) -> Result<bool, Error> {
        let created = match self.describe_table().await? {
            Some(_) => false,
            None => self.create_table(options).await?,
        };
        let table = self.active_table().await?;
        let TableCheck { problems, warnings } = judge(&table, &self.config.layout);
        if !problems.is_empty() {
            return Err(Error::new(ErrorKind::StoreNotReady, problems.join("; ")));
        }
        for warning in warnings {
            tracing::warn!(table = %self.config.table, "{warning}");
        }
        if options.collect_idle && self.config.layout.has_ttl {
            self.collect_idle().await?;
        }
        if !created {
            self.protect(&table, options).await?;
        }
        if options.point_in_time_recovery {
            self.recover().await?;
        }
        Ok(created)
    }

    pub(crate) async fn describe_table(&self) -> Result<Option<TableDescription>, Error> {
        let answer = self.patient_client().await?.describe_table().table_name(&self.config.table).send().await;
        match answer {
            Ok(answer) => Ok(answer.table),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(convert(error, &self.config)),
        }
    }

    /// Waits for a table that this or another client is creating or changing. Only `init` waits
    /// here; no operation on a lock does.
    async fn active_table(&self) -> Result<TableDescription, Error> {
        let wait = async {
            loop {
                if let Some(table) = self.describe_table().await?
                    && matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating))
                {
                    return Ok(table);
                }
                // DynamoDB does not notify its clients when the table is active, so its status is
                // read again. A table takes some seconds. The SDK's own waiter reads every 20 s.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::time::timeout(CREATION, wait).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("the table is not active after {CREATION:?}; try again")))
        })
    }

    async fn create_table(&self, options: &TableOptions) -> Result<bool, Error> {
        let client = self.patient_client().await?;
        let mut request = client
            .create_table()
            .table_name(&self.config.table)
            .billing_mode(BillingMode::PayPerRequest)
            .deletion_protection_enabled(options.deletion_protection);
        for (kind, name) in keys(&self.config.layout) {
            let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            request = request
                .key_schema(
                    KeySchemaElement::builder()
                        .attribute_name(name)
                        .key_type(kind)
                        .build()
                        .expect("both fields are set"),
                )
                .attribute_definitions(definition.build().expect("both fields are set"));
        }
        for tag in tags(options) {
            request = request.tags(tag);
        }
        match request.send().await {
            Ok(_) => Ok(true),
            // Another client was faster.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(false),
            Err(error) => Err(convert(error, &self.config)),
        }
    }

    /// The attribute by which DynamoDB deletes idle items, if TTL is on.
    pub(crate) async fn collected_by(&self) -> Result<Option<String>, Error> {
        let answer = self.patient_client().await?.describe_time_to_live().table_name(&self.config.table).send().await;
        let ttl = answer.map_err(|error| convert(error, &self.config))?.time_to_live_description;
        let on = |status: Option<&TimeToLiveStatus>| {
            matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        };
        Ok(ttl.filter(|ttl| on(ttl.time_to_live_status())).and_then(|ttl| ttl.attribute_name))
    }

    async fn judge_collection(&self) -> Result<Option<String>, Error> {
        let ours = self.config.layout.name(Attribute::CollectAt);
        Ok(match self.collected_by().await? {
            by if !self.config.layout.has_ttl => by.map(|attribute| collected_while_held(&attribute)),
            Some(attribute) if attribute == ours => None,
            Some(attribute) => Some(collected_by_another(&attribute, ours)),
            None => Some(format!(
                "TTL is off: items of unused names are never deleted; turn TTL on for the attribute \"{ours}\""
            )),
        })
    }

    async fn collect_idle(&self) -> Result<(), Error> {
        let ours = self.config.layout.name(Attribute::CollectAt);
        match self.collected_by().await? {
            Some(attribute) if attribute == ours => return Ok(()),
            Some(attribute) => {
                return Err(Error::new(ErrorKind::StoreNotReady, collected_by_another(&attribute, ours)));
            }
            None => {}
        }
        let ttl =
            TimeToLiveSpecification::builder().enabled(true).attribute_name(ours).build().expect("both fields are set");
        let request = self.patient_client().await?.update_time_to_live().table_name(&self.config.table);
        match request.time_to_live_specification(ttl).send().await {
            // Another client may have been faster.
            Err(error) if self.collected_by().await?.as_deref() != Some(ours) => Err(convert(error, &self.config)),
            _ => Ok(()),
        }
    }

    /// Applies protection and tags to a table that existed before.
    async fn protect(&self, table: &TableDescription, options: &TableOptions) -> Result<(), Error> {
        let client = self.patient_client().await?;
        if options.deletion_protection && table.deletion_protection_enabled() != Some(true) {
            let request = client.update_table().table_name(&self.config.table).deletion_protection_enabled(true);
            request.send().await.map_err(|error| convert(error, &self.config))?;
        }
        if let Some(arn) = table.table_arn().filter(|_| !options.tags.is_empty()) {
            let request = client.tag_resource().resource_arn(arn).set_tags(Some(tags(options)));
            request.send().await.map_err(|error| convert(error, &self.config))?;
        }
        Ok(())
    }

    async fn recover(&self) -> Result<(), Error> {
        let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true);
        let request = self.patient_client().await?.update_continuous_backups().table_name(&self.config.table);
        let request = request.point_in_time_recovery_specification(on.build().expect("it is set"));
        request.send().await.map_err(|error| convert(error, &self.config))?;
        Ok(())
    }
}

fn collected_by_another(attribute: &str, ours: &str) -> String {
    format!(
        "TTL deletes items by the attribute \"{attribute}\", but these locks write \"{ours}\": idle items are never \
         deleted; set ttl_attribute={attribute}"
    )
}

fn keys(layout: &Layout) -> Vec<(KeyType, &str)> {
    let sort = layout.sort.as_ref().map(|(name, _)| (KeyType::Range, name.as_str()));
    std::iter::once((KeyType::Hash, layout.name(Attribute::Key))).chain(sort).collect()
}

fn tags(options: &TableOptions) -> Vec<Tag> {
    let tag =
        |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build().expect("both fields are set");
    options.tags.iter().map(tag).collect()
}

/// Finds the problems that the description of a table shows.
fn judge(table: &TableDescription, layout: &Layout) -> TableCheck {
    let mut found = TableCheck { problems: judge_keys(table, layout), ..TableCheck::default() };
    if let Some(status @ (TableStatus::Deleting | TableStatus::Archiving | TableStatus::Archived)) =
        table.table_status()
    {
        found.problems.push(format!("its status is {status}"));
    }
    found
        .problems
        .extend(judge_regions(table).err().map(|problem| format!("it is {problem}; use a table of one region")));
    if !table.local_secondary_indexes().is_empty() || !table.global_secondary_indexes().is_empty() {
        found.warnings.push("it has secondary indexes, each of which makes every write more expensive".into());
    }
    found
}

/// The regions of a global table, if it is one. An error if two regions could both acquire a lock.
pub(crate) fn judge_regions(table: &TableDescription) -> Result<Option<String>, String> {
    if table.replicas().is_empty() {
        return Ok(None);
    }
    let regions: Vec<_> = table.replicas().iter().filter_map(|replica| replica.region_name()).collect();
    let regions = regions.join(", ");
    if table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong) {
        return Ok(Some(regions));
    }
    Err(format!(
        "a global table ({regions}), which resolves concurrent writes by \"last writer wins\": two regions can both \
         acquire a lock"
    ))
}

/// Finds the problems of a table's keys.
pub(crate) fn judge_keys(table: &TableDescription, layout: &Layout) -> Vec<String> {
    let mut problems = Vec::new();
    let there: Vec<_> = table.key_schema().iter().map(|key| (key.key_type().clone(), key.attribute_name())).collect();
    let wanted = keys(layout);
    if there != wanted {
        problems.push(format!(
            "its keys are {}, but schema {} with these names needs {}; keys cannot be changed: use another table, or \
             set partition_key and sort_key",
            shown(&there),
            layout.schema,
            shown(&wanted)
        ));
    }
    for definition in table.attribute_definitions() {
        let is_key = there.iter().any(|(_, name)| *name == definition.attribute_name());
        if is_key && *definition.attribute_type() != ScalarAttributeType::S {
            let (name, kind) = (definition.attribute_name(), definition.attribute_type());
            problems.push(format!("its key \"{name}\" is of type {kind}, but must be a string (S)"));
        }
    }
    problems
}

fn shown(keys: &[(KeyType, &str)]) -> String {
    let one = |(kind, name): &(KeyType, &str)| {
        format!("{} \"{name}\"", if *kind == KeyType::Hash { "partition key" } else { "sort key" })
    };
    keys.iter().map(one).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::ReplicaDescription;

    use super::*;
    use crate::attributes::Schema;

    fn table(
        keys: &[(KeyType, &str)],
        kind: ScalarAttributeType,
    ) -> aws_sdk_dynamodb::types::builders::TableDescriptionBuilder {
        keys.iter().fold(TableDescription::builder(), |table, (key, name)| {
            let element = KeySchemaElement::builder().attribute_name(*name).key_type(key.clone()).build().unwrap();
            let definition = AttributeDefinition::builder().attribute_name(*name).attribute_type(kind.clone());
            table.key_schema(element).attribute_definitions(definition.build().unwrap())
        })
    }

    #[test]
    fn wrong_keys_are_reported_with_the_right_ones() {
        let native = Layout::of(Schema::Native);
        let python = Layout::of(Schema::Python);
        let good = table(&keys(&native), ScalarAttributeType::S);
        assert_eq!(judge(&good.clone().build(), &native), TableCheck::default());
        let problems = judge(&good.build(), &python).problems;
        assert!(
            problems[0].starts_with(
                "its keys are partition key \"key\", but schema python with these names \
            needs partition key \"lock_key\" and sort key \"sort_key\""
            ),
            "{problems:?}"
        );
        let problems = judge(&table(&keys(&native), ScalarAttributeType::N).build(), &native).problems;
        assert_eq!(problems, ["its key \"key\" is of type N, but must be a string (S)"]);
    }

    #[test]
    fn only_strongly_consistent_global_tables_are_accepted() {
        let native = Layout::of(Schema::Native);
        let replica = ReplicaDescription::builder().region_name("us-east-1").build();
        let global = table(&keys(&native), ScalarAttributeType::S).replicas(replica);
        let found = judge(&global.clone().build(), &native);
        assert!(found.warnings.is_empty() && found.problems[0].contains("us-east-1"), "{found:?}");
        let strong = global.multi_region_consistency(MultiRegionConsistency::Strong).build();
        assert_eq!(judge(&strong, &native), TableCheck::default());
    }
}
