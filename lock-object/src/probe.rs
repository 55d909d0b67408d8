//! The start-up probe: no lock is granted before the store has refused conditions that do not hold.

use futures_util::future::try_join3;
use lock_core::Error;

use crate::{
    backend::ObjectBackend,
    config::Service,
    error,
    store::{Tag, Written},
};

const CONTENT: &[u8] = b"{\"onelock\":\"probe\"}";

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
        self.probed.get_or_try_init(|| self.see_refusals()).await.copied()
    }

    async fn see_refusals(&self) -> Result<(), Error> {
        let (object, never) = (self.keys.probe(), self.keys.never());
        let wrong = self.wrong_tag();
        let create = || self.store.put(&object, CONTENT.to_vec(), None);
        let (created, _, missing) = try_join3(
            create(),
            self.refuses(self.store.put(&object, CONTENT.to_vec(), Some(&wrong)), "If-Match of a wrong version"),
            self.store.put(&never, CONTENT.to_vec(), Some(&wrong)),
        )
        .await?;
        if let Written::Done(tag) = missing {
            // Otherwise the next probe would find an object here.
            let _ = self.store.delete(&never, &tag).await;
            return Err(error::ignores_conditions("it created an object by a PUT with If-Match"));
        }
        if matches!(created, Written::Done(_)) {
            self.refuses(create(), "If-None-Match on an object that exists").await?;
            // The parallel one may have come before there was an object.
            let again = self.store.put(&object, CONTENT.to_vec(), Some(&wrong));
            self.refuses(again, "If-Match of a wrong version").await?;
        }
        self.see_clock().await
    }

    /// Sees that the age of an object can be judged.
    async fn see_clock(&self) -> Result<(), Error> {
        let read = self.store.get(&self.keys.probe()).await?;
        match read.object {
            Some(object) => self.age(read.date, object.modified).map(drop),
            None => Err(error::ignores_conditions("it refused to create an object that does not exist")),
        }
    }

    async fn refuses(&self, put: impl Future<Output = Result<Written, Error>>, what: &str) -> Result<(), Error> {
        match put.await? {
            Written::Refused(_) => Ok(()),
            Written::Done(_) => Err(error::ignores_conditions(&format!("it accepted a PUT with {what}"))),
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
