//! Locks that Terraform and OpenTofu respect: the file `KEY.tflock` beside the state `KEY` in S3,
//! which exists while the lock is held.
//!
//! It is what `use_lockfile = true` of the S3 backend writes:
//! <https://developer.hashicorp.com/terraform/language/backend/s3#state-locking>.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lock_core::{
    Error, ErrorKind, Holder, LockName, LossReason,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Grant, Lease, LeaseId, Listing,
        OddEntry, Release, Renewal, StoreTimings,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    ObjectBackend, ObjectConfig, error,
    store::{Tag, Written},
};

const SUFFIX: &str = ".tflock";
/// How often a holder looks whether another program has removed its lock. Each look is a read.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const READS: usize = 16;

/// The content of a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LockInfo {
    #[serde(rename = "ID")]
    id: String,
    operation: String,
    info: String,
    who: String,
    version: String,
    created: String,
    path: String,
}

/// The operation in the lock files of onelock, which tells them from those of Terraform.
const OPERATION: &str = "onelock";

/// Locks beside the states of Terraform and OpenTofu in a bucket of S3.
///
/// The name of a lock is the key of the state. A lock has no ttl: if its holder dies, it stays
/// until `onelock break` or `terraform force-unlock` removes it.
pub struct TflockBackend(ObjectBackend);

/// A lock file that a read found.
#[derive(Debug)]
struct Found {
    info: LockInfo,
    tag: Tag,
    date: i64,
}

impl TflockBackend {
    /// A backend on the bucket that `config` names, below its prefix.
    ///
    /// # Errors
    /// As for [`ObjectBackend::new`].
    pub fn new(config: ObjectConfig) -> Result<Self, Error> {
        ObjectBackend::new(config.tflock()).map(Self)
    }

    async fn look(&self, name: &LockName) -> Result<Option<Found>, Error> {
        self.read(&self.0.keys.beside(name, SUFFIX)?).await
    }

    async fn read(&self, path: &object_store::path::Path) -> Result<Option<Found>, Error> {
        let read = self.0.store.get(path).await?;
        let Some(object) = read.object else { return Ok(None) };
        let info: Option<LockInfo> = serde_json::from_slice(&object.body).ok();
        let info = info.filter(|info| !info.id.is_empty());
        let info = info.ok_or_else(|| error::stranger(path.as_ref(), "it is no lock file of Terraform"))?;
        Ok(Some(Found { info, tag: object.tag, date: read.date }))
    }

    /// Deletes a lock file that was read. `false` if another client was faster.
    async fn delete(&self, name: &LockName, found: &Found) -> Result<bool, Error> {
        let path = self.0.keys.beside(name, SUFFIX)?;
        Ok(matches!(self.0.store.delete(&path, &found.tag).await?, Written::Done(_)))
    }

    fn lock_info(&self, request: &AcquireRequest, key: &str) -> LockInfo {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(self.0.mint_us(None));
        LockInfo {
            id: uuid(request.id),
            operation: OPERATION.into(),
            info: request.data.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned(),
            who: request.owner.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            created: humantime::format_rfc3339_micros(now).to_string(),
            path: format!("{}/{}", self.0.config.bucket, key.trim_end_matches(SUFFIX)),
        }
    }
}

impl Found {
    fn is_of(&self, id: LeaseId) -> bool {
        self.info.id == uuid(id)
    }

    fn holder(&self) -> Holder {
        let info = &self.info;
        let now = u64::try_from(self.date).ok().map(|date| SystemTime::UNIX_EPOCH + Duration::from_secs(date));
        let foreign = format!("a lock of Terraform or OpenTofu ({})", info.operation);
        Holder::default()
            .with_owner((!info.who.is_empty()).then(|| info.who.clone()))
            .with_since(humantime::parse_rfc3339(&info.created).ok())
            .with_data((!info.info.is_empty()).then(|| info.info.clone().into_bytes()))
            .with_version(info.id.clone())
            .with_foreign((info.operation != OPERATION).then_some(foreign))
            .with_store_time(now)
    }
}

/// Writes an id as Terraform does.
fn uuid(id: LeaseId) -> String {
    let hex = id.to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[async_trait]
impl Backend for TflockBackend {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_holder(true).with_inspect(true).with_list(true).with_break_lock(true)
    }

    fn timings(&self) -> StoreTimings {
        self.0.timings().with_probe_every(LOOK_EVERY)
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        request.require_exclusive()?;
        let path = self.0.keys.beside(&request.name, SUFFIX)?;
        // Twice: the holder may release between a refused write and the read that follows.
        for _ in 0..2 {
            match self.look(&request.name).await? {
                Some(found) if found.is_of(request.id) => {
                    return Ok(AcquireOutcome::Granted(Grant::default().with_already_ours(true)));
                }
                Some(found) => return Ok(AcquireOutcome::Contended(found.holder())),
                None => {}
            }
            // A release deletes, so deletions must be conditional too.
            self.0.see_conditional_delete().await?;
            let info = serde_json::to_vec(&self.lock_info(request, path.as_ref())).expect("strings are JSON");
            if let Written::Done(_) = self.0.store.put(&path, info, None).await? {
                return Ok(AcquireOutcome::Granted(Grant::default()));
            }
        }
        match self.look(&request.name).await? {
            Some(found) if found.is_of(request.id) => {
                Ok(AcquireOutcome::Granted(Grant::default().with_already_ours(true)))
            }
            // Other clients were faster, twice.
            found => Ok(AcquireOutcome::Contended(found.map(|found| found.holder()).unwrap_or_default())),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        Ok(match self.look(&lease.name).await? {
            Some(found) if found.is_of(lease.id) => Renewal::Renewed,
            Some(found) => Renewal::Lost(LossReason::TakenBy(Box::new(found.holder()))),
            None => Renewal::Lost(LossReason::RecordGone),
        })
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        if !hold_for.is_zero() {
            tracing::warn!(name = %lease.name, "min_hold has no effect on a lock of Terraform: released at once");
        }
        for _ in 0..2 {
            match self.look(&lease.name).await? {
                Some(found) if found.is_of(lease.id) => {
                    if self.delete(&lease.name, &found).await? {
                        return Ok(Release::Released);
                    }
                }
                found => return Ok(Release::NotHeld(found.map(|found| found.holder()))),
            }
        }
        Err(error::overtaken())
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::new(self.0.config.clone())?))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        self.0.findings().await
    }
}

#[async_trait]
impl Admin for TflockBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        Ok(self.look(name).await?.map(|found| found.holder()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let objects = self.0.store.list(self.0.keys.prefix());
        let keys: Vec<_> = objects.map_ok(|object| object.location).try_collect().await?;
        let named = keys.into_iter().filter_map(|key| Some((self.0.keys.name_beside(&key, SUFFIX)?, key)));
        let named = named.filter(|(name, _)| name.as_str().starts_with(prefix));
        let reads = stream::iter(named).map(async |(name, key)| (name, self.read(&key).await, key)).buffered(READS);
        let found: Vec<_> = reads.collect().await;
        let mut listing = Listing::default();
        for (name, read, key) in found {
            match read {
                Ok(found) => listing.locks.extend(found.map(|found| (name, found.holder()))),
                Err(error) if error.kind() == ErrorKind::StoreNotReady => {
                    listing.note_odd(OddEntry::new(format!("the object \"{key}\""), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        listing.locks.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        match self.look(name).await? {
            Some(found) if found.info.id == version => {
                self.0.see_conditional_delete().await?;
                if self.delete(name, &found).await? {
                    // The holder finds its lock gone, because there is no place for the name.
                    tracing::info!(%name, by, "the lock of Terraform was removed");
                    return Ok(Break::Broken);
                }
                Ok(Break::Changed(self.look(name).await?.map(|found| found.holder())))
            }
            found => Ok(Break::Changed(found.map(|found| found.holder()))),
        }
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        // A free lock leaves nothing behind.
        Ok(self.look(name).await?.is_none())
    }
}

impl fmt::Debug for TflockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TflockBackend").field("store", &self.describe()).finish_non_exhaustive()
    }
}
