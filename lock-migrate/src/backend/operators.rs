//! The calls of operators, on both stores.

use async_trait::async_trait;
use futures_util::future::join;
use lock_core::{
    Error, Holder, LockName,
    backend::{Admin, Break, Listing, PastHolder},
};

use super::MigrationBackend;
use crate::{
    holders::{merged, merged_listings, split_version},
    taken::Side,
};

#[async_trait]
impl Admin for MigrationBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let (from, to) = (self.from.require_admin()?, self.to.require_admin()?);
        let (from, to) = join(from.inspect(name), to.inspect(name)).await;
        Ok(merged(from?, to?))
    }

    /// Returns the later one. Both stores have the last holder that used the migration.
    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let (from, to) = (self.from.require_admin()?, self.to.require_admin()?);
        let (from, to) = join(from.last_holder(name), to.last_holder(name)).await;
        // The holder of one store only is in its way while the other one is free.
        Ok(from?.into_iter().chain(to?).max_by_key(|past| past.holder.token))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let (from, to) = (self.from.require_admin()?, self.to.require_admin()?);
        let (from, to) = join(from.list(prefix), to.list(prefix)).await;
        Ok(merged_listings(from?, to?))
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let (from, to) = split_version(version);
        let mut broken = false;
        // In the order of a release: a client of the old store alone must not meet the holder in
        // the new one.
        for (side, version) in [(Side::To, to), (Side::From, from)] {
            if let Some(version) = version {
                broken |= self.side(side).require_admin()?.break_lock(name, version, by).await? == Break::Broken;
            }
        }
        if broken { Ok(Break::Broken) } else { Ok(Break::Changed(self.inspect(name).await?)) }
    }

    /// Purges the new store first. Its removal stays, even if the lock turns out to be held in the
    /// old store.
    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        Ok(self.to.require_admin()?.purge(name).await? && self.from.require_admin()?.purge(name).await?)
    }
}
