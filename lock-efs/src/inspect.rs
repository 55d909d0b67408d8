//! Inspects and lists locks without acquiring them.

use std::{fs, io};

use lock_core::{Error, Holder, LockName};

use crate::{
    clock::now_us,
    dir, encode, error,
    files::Files,
    medium::kernel_locks::KernelLocks,
    sidecar::{self, RecordRead},
    store::FileStore,
};

impl FileStore {
    pub(crate) fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let holder = self.look(&self.files(&encode::encode(name)), &KernelLocks::read())?;
        if holder.is_none() {
            dir::must_exist(self.directory())?;
        }
        Ok(holder)
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(LockName, Holder)>, Error> {
        let fail = |e: io::Error| error::at("list the directory", self.directory(), e);
        dir::must_exist(self.directory())?;
        let known = KernelLocks::read();
        let mut locks = Vec::new();
        for entry in fs::read_dir(self.directory()).map_err(fail)? {
            let file_name = entry.map_err(fail)?.file_name();
            let Some(stem) = file_name.to_str().and_then(|n| n.strip_suffix(".lock")) else { continue };
            let files = self.files(stem);
            let Some(name) = self.name_of(stem, &files).filter(|n| n.as_str().starts_with(prefix)) else { continue };
            match self.look(&files, &known) {
                Ok(holder) => locks.extend(holder.map(|h| (name, h))),
                // It must not hide the others.
                Err(error) if error::is_of_one_file(&error) => {
                    tracing::warn!(%name, %error, "this lock is not listed, because it could not be examined");
                }
                Err(error) => return Err(error),
            }
        }
        locks.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(locks)
    }

    fn look(&self, files: &Files, known: &KernelLocks) -> Result<Option<Holder>, Error> {
        let locked = self.medium().is_locked(&files.lock, known)?;
        let record = sidecar::peek(&files.record, self.medium().open_flags());
        let listed = || self.medium().holding_process(&files.lock, known);
        Ok(if locked { Some(record.holder(now_us(), listed)) } else { record.min_holder(now_us()) })
    }

    fn name_of(&self, stem: &str, files: &Files) -> Option<LockName> {
        if !encode::has_digest(stem) {
            return encode::decode(stem);
        }
        let record = match sidecar::read(&files.record, self.medium().open_flags()) {
            Ok(RecordRead::Record(record)) => record,
            Ok(_) => return None,
            Err(error) => {
                let file = files.lock.display();
                tracing::warn!(%file, %error, "this lock is not listed, because only its record has its name");
                return None;
            }
        };
        LockName::new(record.body.name).ok().filter(|name| encode::encode(name) == stem)
    }
}
