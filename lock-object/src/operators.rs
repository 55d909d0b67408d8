//! Operators' calls: list the locks, break one, forget one.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lock_core::{
    Error, ErrorKind, Holder, LockName,
    backend::{Break, Listing, OddEntry},
};
use object_store::path::Path;

use crate::{
    backend::{LockState, ObjectBackend, Seen},
    keys::Place,
    record::Record,
    store::Written,
};

/// How many objects a list reads at once.
const READS: usize = 16;

/// What a list found at a key.
enum Entry {
    Lock(LockName, Holder),
    Odd(OddEntry),
    Nothing,
}

impl ObjectBackend {
    /// Lists the keys, and reads each object whose name may begin with `prefix`.
    pub(crate) async fn list_held(&self, prefix: &str) -> Result<Listing, Error> {
        let objects = self.store.list(self.keys.prefix());
        let keys: Vec<Path> = objects.map_ok(|object| object.location).try_collect().await?;
        let entries = stream::iter(keys).map(|key| self.entry(key, prefix)).buffered(READS);
        let entries: Vec<Entry> = entries.try_collect().await?;
        let mut listing = Listing::default();
        for entry in entries {
            match entry {
                Entry::Lock(name, holder) => listing.locks.push((name, holder)),
                Entry::Odd(odd) => listing.note_odd(odd),
                Entry::Nothing => {}
            }
        }
        listing.locks.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    async fn entry(&self, key: Path, prefix: &str) -> Result<Entry, Error> {
        let place = self.keys.place(&key);
        match &place {
            Place::Other => return Ok(Entry::Nothing),
            Place::Lock(name) if !name.as_str().starts_with(prefix) => return Ok(Entry::Nothing),
            Place::Odd => {
                let reason = "its key is not the name of a lock; delete the object, or use another prefix";
                return Ok(Entry::Odd(OddEntry::new(format!("the object \"{key}\""), reason)));
            }
            Place::Lock(_) | Place::Digest => {}
        }
        let seen = match self.read(&key).await {
            Ok(seen) => seen,
            Err(error) if error.kind() == ErrorKind::StoreNotReady => {
                return Ok(Entry::Odd(OddEntry::new(format!("the object \"{key}\""), error.to_string())));
            }
            Err(error) => return Err(error),
        };
        let name = seen.record().and_then(Record::name).filter(|name| self.keys.lock(name) == key);
        Ok(match (name, self.current(&seen)) {
            (Some(name), Some(holder)) if name.as_str().starts_with(prefix) => Entry::Lock(name, holder),
            (None, Some(_)) => {
                let reason = "it is the record of another name; delete the object";
                Entry::Odd(OddEntry::new(format!("the object \"{key}\""), reason))
            }
            _ => Entry::Nothing,
        })
    }

    /// Takes a lock away from the lease whose id is `version`.
    pub(crate) async fn take_away(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let mut seen = self.look(name).await?;
        // Twice, because a renewal of the same lease may come between the read and the write.
        for _ in 0..2 {
            let Some(found) = found(&seen, version) else { break };
            let broken = found.record.broken(by);
            if let Written::Done(_) = self.put(name, &broken, Some(&found.tag)).await? {
                return Ok(Break::Broken);
            }
            seen = self.look(name).await?;
        }
        Ok(Break::Changed(self.current(&seen)))
    }

    /// Deletes the object of a free lock.
    pub(crate) async fn remove(&self, name: &LockName) -> Result<bool, Error> {
        let seen = self.look(name).await?;
        let Some(version) = &seen.version else { return Ok(true) };
        if self.state(&seen) != LockState::Free {
            return Ok(false);
        }
        self.see_conditional_delete().await?;
        self.free.take(name);
        Ok(matches!(self.store.delete(&self.keys.lock(name), &version.tag).await?, Written::Done(_)))
    }

    /// Sees the store refuse to delete an object of another version. A store that ignores the
    /// condition could delete the lock of a new holder.
    pub(crate) async fn see_conditional_delete(&self) -> Result<(), Error> {
        self.probe().await?;
        self.delete_probed.get_or_ask(|| self.see_refused_deletion()).await.copied()
    }

    async fn see_refused_deletion(&self) -> Result<(), Error> {
        match self.store.delete(&self.keys.probe(), &self.wrong_tag()).await {
            Ok(Written::Refused(_)) => Ok(()),
            Ok(Written::Done(_)) => {
                let text = "this store ignores conditions of deletions, so nothing can be deleted safely; a \
                    lifecycle rule of the bucket deletes idle locks";
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            Err(error) => Err(error),
        }
    }
}

fn found<'a>(seen: &'a Seen, version: &str) -> Option<&'a crate::memory::Version> {
    seen.version.as_ref().filter(|found| found.record.id().is_some_and(|id| id.to_string() == version))
}
