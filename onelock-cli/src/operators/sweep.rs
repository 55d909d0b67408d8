//! `onelock sweep`: cleans up after names that are not used any more.

use onelock::{
    config::{ConfigString, StoreConfig},
    files::{FileConfig, Sweep},
};

use crate::{
    args::SweepArgs,
    exit::{Exit, Failure},
    output::print,
};

/// Runs `onelock sweep`: prints one removed lock file or name a line.
pub(crate) fn sweep(args: SweepArgs) -> Result<Exit, Failure> {
    let url =
        args.store.to_str().filter(|text| ["postgres:", "postgresql:"].iter().any(|scheme| text.starts_with(scheme)));
    if let Some(url) = url {
        let mut config = StoreConfig::from(ConfigString::parse(url)?.fetch_secrets()?);
        return postgres::sweep(&args, &mut config);
    }
    // A missing directory is a typing error, and must not be created.
    let backend = FileConfig::new(args.store).create(false).build()?;
    let swept = backend.sweep(Sweep::new(args.idle).dry_run(args.dry_run))?;
    for path in &swept.removed {
        print(&path.display().to_string())?;
    }
    Ok(Exit::Code(0))
}

#[cfg(not(feature = "postgres"))]
mod postgres {
    use super::{Exit, Failure, StoreConfig, SweepArgs};

    pub(super) fn sweep(_: &SweepArgs, _: &mut StoreConfig) -> Result<Exit, Failure> {
        let message = "this build has no PostgreSQL; build with the cargo feature \"postgres\"";
        Err(Failure::new(crate::exit::CONFIG, message))
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use onelock::postgres::{PostgresBackend, PostgresConfig};

    use super::{Exit, Failure, StoreConfig, SweepArgs, print};
    use crate::runtime::runtime;

    pub(super) fn sweep(args: &SweepArgs, config: &mut StoreConfig) -> Result<Exit, Failure> {
        config.set_common_aside()?;
        let backend = PostgresBackend::new(PostgresConfig::take(config)?)?;
        let names = runtime()?.block_on(async {
            if args.dry_run { backend.idle_names(args.idle).await } else { backend.sweep(args.idle).await }
        })?;
        for name in &names {
            print(name.as_str())?;
        }
        Ok(Exit::Code(0))
    }
}
