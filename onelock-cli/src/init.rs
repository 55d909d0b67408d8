//! `onelock init`: creates or checks the table of a DynamoDB store.

use crate::{
    args::InitArgs,
    exit::{self, Exit, Failure},
};

#[cfg(not(feature = "dynamo"))]
pub(crate) fn init(_: InitArgs) -> Result<Exit, Failure> {
    let message =
        "only DynamoDB stores have a table, and this build has no DynamoDB; build with the cargo feature \"dynamo\"";
    Err(Failure::new(exit::CONFIG, message))
}

#[cfg(feature = "dynamo")]
pub(crate) fn init(args: InitArgs) -> Result<Exit, Failure> {
    use onelock::{
        config::{ConfigString, StoreConfig},
        dynamo::{DynamoBackend, DynamoConfig, TableOptions},
    };

    use crate::{output::print, runtime::runtime, store::StoreLocation};

    let StoreLocation::Url(url) = StoreLocation::choose(&args.store)? else {
        return Err(Failure::new(exit::USAGE, "no table was named; pass --url dynamodb://TABLE?region=REGION"));
    };
    let mut config = StoreConfig::from(ConfigString::parse(&url)?.fetch_secrets()?);
    if config.scheme() != "dynamodb" {
        return Err(Failure::new(exit::USAGE, format!("a {}: store has no table to create", config.scheme())));
    }
    config.set_common_aside()?;
    let backend = DynamoBackend::new(DynamoConfig::take(&mut config)?);
    let options = TableOptions::default()
        .collect_idle(!args.keep_idle)
        .point_in_time_recovery(args.point_in_time_recovery)
        .deletion_protection(args.deletion_protection);
    let options = args.tags.into_iter().fold(options, |options, (key, value)| options.tag(key, value));
    let (created, check) = runtime()?.block_on(async {
        let created = if args.check { None } else { Some(backend.init(&options).await?) };
        Ok::<_, onelock::Error>((created, backend.check().await?))
    })?;
    match created {
        Some(true) => print("the table was created")?,
        Some(false) => print("the table already exists")?,
        None => {}
    }
    for warning in &check.warnings {
        print(&format!("warning: {warning}"))?;
    }
    for problem in &check.problems {
        print(&format!("problem: {problem}"))?;
    }
    if !check.problems.is_empty() {
        return Ok(Exit::Code(exit::CANNOT_CREATE));
    }
    print("the table is ready for locks")?;
    Ok(Exit::Code(0))
}
