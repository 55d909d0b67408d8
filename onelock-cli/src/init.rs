//! `onelock init`: creates or checks the table of a store that has one.

use onelock::config::{ConfigString, StoreConfig};

use crate::{
    args::InitArgs,
    exit::{self, Exit, Failure},
    store::StoreLocation,
};

pub(crate) fn init(args: InitArgs) -> Result<Exit, Failure> {
    let StoreLocation::Url(url) = StoreLocation::choose(&args.store)? else {
        let message = "no table was named; pass --url dynamodb://TABLE?region=REGION, or --url postgres://HOST/DB";
        return Err(Failure::new(exit::USAGE, message));
    };
    let mut config = StoreConfig::from(ConfigString::parse(&url)?.fetch_secrets()?);
    match config.scheme() {
        "dynamodb" => dynamo::init(args, &mut config),
        "postgres" | "postgresql" => postgres::init(&args, &mut config),
        other => Err(Failure::new(exit::USAGE, format!("a {other}: store has no table to create"))),
    }
}

#[cfg(not(all(feature = "dynamo", feature = "postgres")))]
fn absent(store: &str, feature: &str) -> Result<Exit, Failure> {
    let message = format!("this build has no {store}; build with the cargo feature \"{feature}\"");
    Err(Failure::new(exit::CONFIG, message))
}

#[cfg(not(feature = "dynamo"))]
mod dynamo {
    use super::{Exit, Failure, InitArgs, StoreConfig, absent};

    pub(super) fn init(_: InitArgs, _: &mut StoreConfig) -> Result<Exit, Failure> {
        absent("DynamoDB", "dynamo")
    }
}

#[cfg(not(feature = "postgres"))]
mod postgres {
    use super::{Exit, Failure, InitArgs, StoreConfig, absent};

    pub(super) fn init(_: &InitArgs, _: &mut StoreConfig) -> Result<Exit, Failure> {
        absent("PostgreSQL", "postgres")
    }
}

/// Says what was done, if anything was.
#[cfg(any(feature = "dynamo", feature = "postgres"))]
fn print_created(created: Option<bool>) -> Result<(), Failure> {
    match created {
        Some(true) => crate::output::print("the table was created")?,
        Some(false) => crate::output::print("the table already exists")?,
        None => {}
    }
    Ok(())
}

#[cfg(feature = "dynamo")]
mod dynamo {
    use onelock::dynamo::{DynamoBackend, DynamoConfig, TableOptions};

    use super::{Exit, Failure, InitArgs, StoreConfig, exit, print_created};
    use crate::{output::print, runtime::runtime};

    pub(super) fn init(args: InitArgs, config: &mut StoreConfig) -> Result<Exit, Failure> {
        config.set_common_aside()?;
        let backend = DynamoBackend::new(DynamoConfig::take(config)?);
        let options = TableOptions::default()
            .collect_idle(!args.keep_idle)
            .point_in_time_recovery(args.point_in_time_recovery)
            .deletion_protection(args.deletion_protection);
        let options = args.tags.into_iter().fold(options, |options, (key, value)| options.tag(key, value));
        let (created, check) = runtime()?.block_on(async {
            let created = if args.check { None } else { Some(backend.init(&options).await?) };
            Ok::<_, onelock::Error>((created, backend.check().await?))
        })?;
        print_created(created)?;
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
}

#[cfg(feature = "postgres")]
mod postgres {
    use onelock::postgres::{PostgresBackend, PostgresConfig};

    use super::{Exit, Failure, InitArgs, StoreConfig, exit, print_created};
    use crate::{output::print, runtime::runtime};

    pub(super) fn init(args: &InitArgs, config: &mut StoreConfig) -> Result<Exit, Failure> {
        if !args.tags.is_empty() || args.point_in_time_recovery || args.deletion_protection || args.keep_idle {
            let message = "the options of a DynamoDB table do not apply to PostgreSQL; only --check does";
            return Err(Failure::new(exit::USAGE, message));
        }
        config.set_common_aside()?;
        let backend = PostgresBackend::new(PostgresConfig::take(config)?)?;
        let (created, warnings) = runtime()?.block_on(async {
            let created = if args.check { None } else { Some(backend.init().await?) };
            Ok::<_, onelock::Error>((created, backend.check().await?))
        })?;
        print_created(created)?;
        for warning in &warnings {
            print(&format!("warning: {warning}"))?;
        }
        print("the table is ready for locks")?;
        Ok(Exit::Code(0))
    }
}
