//! `onelock init`

use clap::Args;

use super::{StoreArgs, values::tag};

/// Which table, and what it shall have.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Only look: say what is wrong with the table, and change nothing.
    #[arg(long)]
    pub(crate) check: bool,

    /// A tag for a new table; can be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Switch point-in-time recovery on.
    #[arg(long)]
    pub(crate) point_in_time_recovery: bool,

    /// Protect the table from deletion.
    #[arg(long)]
    pub(crate) deletion_protection: bool,

    /// Do not let DynamoDB delete items that have been idle for long.
    #[arg(long)]
    pub(crate) keep_idle: bool,
}
