//! The acquisitions that have ended.

use std::collections::{BTreeMap, VecDeque};

use crate::types::{LeaseId, LockName};

/// How many acquisitions are remembered. A late request of an older one counts as new.
const REMEMBERED: usize = 1_000;

/// The last acquisitions that a client released or an operator broke. A request of one of them is
/// late: its client has ended the acquisition, and would neither renew nor release the lock.
#[derive(Debug, Default)]
pub(super) struct Ended {
    names: BTreeMap<LeaseId, LockName>,
    /// The same, the oldest first.
    order: VecDeque<LeaseId>,
}

impl Ended {
    pub(super) fn note(&mut self, id: LeaseId, name: &LockName) {
        if self.names.insert(id, name.clone()).is_some() {
            return;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        self.order.push_back(id);
    }

    pub(super) fn is_late(&self, id: LeaseId, name: &LockName) -> bool {
        self.names.get(&id) == Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_many_ended_ids_is_forgotten() {
        let (name, other) = (LockName::new("job").unwrap(), LockName::new("other").unwrap());
        let id = |number: usize| LeaseId::from(number as u128);
        let mut ended = Ended::default();
        for number in 0..REMEMBERED {
            ended.note(id(number), &name);
        }
        // Noted again: nothing has to be forgotten for it.
        ended.note(id(1), &name);
        assert!((0..REMEMBERED).all(|number| ended.is_late(id(number), &name)));
        assert!(!ended.is_late(id(0), &other));
        ended.note(id(REMEMBERED), &name);
        assert!(!ended.is_late(id(0), &name));
        assert!((1..=REMEMBERED).all(|number| ended.is_late(id(number), &name)));
        assert_eq!(ended.names.len(), ended.order.len());
    }
}
