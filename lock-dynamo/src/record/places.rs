//! Reads the queue of fair requests.

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::backend::LeaseId;

use super::Waiting;

/// A place in the queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// The place as it is in the item, so that a change of it is recognized.
    pub(crate) value: AttributeValue,
    /// `None` if it cannot be read. No request waits for such a place.
    pub(crate) waiting: Option<Waiting>,
}

impl Place {
    /// Reads the queue.
    pub(super) fn read_all(places: &AttributeValue) -> Vec<Self> {
        let places = places.as_l().map_or(&[][..], |places| places);
        places.iter().map(|place| Self { value: place.clone(), waiting: Waiting::read(place) }).collect()
    }

    pub(crate) fn is_of(&self, id: LeaseId) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.id == id)
    }
}
