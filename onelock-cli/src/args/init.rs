//! Arguments of `onelock init`.

use clap::Args;

use super::{StoreArgs, values::tag};

/// The table, and the properties of a new one.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Only report what is wrong with the table, and change nothing.
    #[arg(long)]
    pub(crate) check: bool,

    /// Tag for a new DynamoDB table; can be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Turn on point-in-time recovery of DynamoDB.
    #[arg(long)]
    pub(crate) point_in_time_recovery: bool,

    /// Protect the DynamoDB table from deletion.
    #[arg(long)]
    pub(crate) deletion_protection: bool,

    /// Keep DynamoDB from deleting items that have been idle for a long time.
    #[arg(long)]
    pub(crate) keep_idle: bool,
}
