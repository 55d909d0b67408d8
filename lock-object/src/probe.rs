//! The start-up probe: no lock is granted before the store has refused conditions that do not hold.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join;
use lock_core::Error;

use crate::{
    backend::ObjectBackend,
    config::Service,
    error,
    store::{Tag, Written},
};

const CONTENT: &[u8] = b"{\"onelock\":\"probe\"}";

/// The steps that the probe has passed. An attempt that ends within the probe leaves the other
/// steps to the next attempt. Otherwise no attempt passes the probe where requests are often lost.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    creation: Step,
    missing: Step,
    version: Step,
    clock: Step,
}

#[derive(Debug, Default)]
struct Step(AtomicBool);

impl Step {
    /// Takes the step, unless it was passed before.
    async fn once(&self, step: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        if !self.0.load(Ordering::Relaxed) {
            step.await?;
            self.0.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl ObjectBackend {
    /// Sees the store refuse what it must refuse, once for each backend.
    ///
    /// # Errors
    /// Of kind [`Config`](lock_core::ErrorKind::Config) if the store ignores a condition, with the
    /// evidence.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        if !self.config.probe {
            return Ok(());
        }
        self.probed.get_or_ask(|| self.see_refusals()).await.copied()
    }

    async fn see_refusals(&self) -> Result<(), Error> {
        let passed = &self.passed;
        // All replies are awaited, because each of them may pass a step.
        let creation = passed.creation.once(self.see_refused_creation());
        let (creation, missing) = join(creation, passed.missing.once(self.see_nothing_created())).await;
        creation.and(missing)?;
        // A wrong version means something only where there is an object.
        let version = passed.version.once(self.see_refused_version());
        let (version, clock) = join(version, passed.clock.once(self.see_clock())).await;
        version.and(clock)
    }

    async fn see_refused_creation(&self) -> Result<(), Error> {
        let object = self.keys.probe();
        let create = || self.store.put(&object, CONTENT.to_vec(), None);
        match create().await? {
            Written::Refused(_) => Ok(()),
            Written::Done(_) => refused(create().await?, "If-None-Match on an object that exists"),
        }
    }

    async fn see_nothing_created(&self) -> Result<(), Error> {
        let never = self.keys.never();
        let Written::Done(tag) = self.store.put(&never, CONTENT.to_vec(), Some(&self.wrong_tag())).await? else {
            return Ok(());
        };
        // Otherwise the next probe would find an object here.
        let _ = self.store.delete(&never, &tag).await;
        Err(error::ignores_conditions("it created an object by a PUT with If-Match"))
    }

    async fn see_refused_version(&self) -> Result<(), Error> {
        let written = self.store.put(&self.keys.probe(), CONTENT.to_vec(), Some(&self.wrong_tag())).await?;
        refused(written, "If-Match of a wrong version")
    }

    /// Sees that the age of an object can be judged.
    async fn see_clock(&self) -> Result<(), Error> {
        let read = self.store.get(&self.keys.probe()).await?;
        match read.object {
            Some(object) => self.age(read.date, object.modified).map(drop),
            None => {
                // If another program deleted the object, the next attempt creates it again.
                self.passed.creation.forget();
                Err(error::ignores_conditions("it refused to create an object that does not exist"))
            }
        }
    }

    /// A version that no object has.
    pub(crate) fn wrong_tag(&self) -> Tag {
        Tag(match self.config.service {
            Service::Gcs => "1".into(),
            Service::Azure => "\"0x8D0000000000000\"".into(),
            Service::S3 => "\"00000000000000000000000000000000\"".into(),
        })
    }
}

fn refused(written: Written, what: &str) -> Result<(), Error> {
    match written {
        Written::Refused(_) => Ok(()),
        Written::Done(_) => Err(error::ignores_conditions(&format!("it accepted a PUT with {what}"))),
    }
}
