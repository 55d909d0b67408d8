//! The places of this backend's requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::Place;
use crate::{key::Key, sync};

/// The places of one backend. Each is a locked byte of an open file, so it ends with the process.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<Key, Arc<Place>>>);

impl Places {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Place>> {
        let places = sync::lock(&self.0);
        if places.is_empty() { None } else { places.get(key).map(Arc::clone) }
    }

    pub(crate) fn insert(&self, key: Key, place: Place) {
        sync::lock(&self.0).insert(key, Arc::new(place));
    }

    /// Ends the place of a request, and returns whether it had one.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        let mut places = sync::lock(&self.0);
        let ended = if places.is_empty() { None } else { places.remove(key) };
        drop(places);
        ended.inspect(|place| place.leave()).is_some()
    }
}
