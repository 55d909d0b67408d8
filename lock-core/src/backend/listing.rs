//! The answer of a list: the held locks, and the entries that could not be read.

use std::fmt;

use crate::types::{Holder, LockName};

/// The held locks of a store, and the entries that could not be read; made by
/// [`Admin::list`](super::Admin::list).
///
/// ```
/// use lock_core::backend::{Listing, OddEntry};
///
/// let mut listing = Listing::default();
/// listing.note_odd(OddEntry::new("/locks/x.lock", "it is a symbolic link"));
/// assert_eq!(listing.odd()[0].to_string(), "/locks/x.lock: it is a symbolic link");
/// assert_eq!((listing.locks.len(), listing.odd_count()), (0, 1));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The held locks, in the order of their names.
    pub locks: Vec<(LockName, Holder)>,
    odd: Vec<OddEntry>,
    odd_count: usize,
}

impl Listing {
    /// The number of odd entries that a listing keeps, so that a store full of them costs no
    /// memory. It counts the others.
    pub const MOST_ODD: usize = 100;

    /// Creates a listing without odd entries.
    pub fn new(locks: Vec<(LockName, Holder)>) -> Self {
        Self { locks, ..Self::default() }
    }

    /// Adds an entry that could not be read. The entry is only counted if the listing already keeps
    /// [`MOST_ODD`](Self::MOST_ODD) others.
    pub fn note_odd(&mut self, entry: OddEntry) {
        self.odd_count += 1;
        if self.odd.len() < Self::MOST_ODD {
            self.odd.push(entry);
        }
    }

    /// Adds the odd entries of `other`, each changed by `change`.
    pub fn note_odd_of(&mut self, other: &Self, change: impl Fn(&OddEntry) -> OddEntry) {
        other.odd.iter().for_each(|entry| self.note_odd(change(entry)));
        self.odd_count += other.odd_count - other.odd.len();
    }

    /// Returns the entries that could not be read, at most [`MOST_ODD`](Self::MOST_ODD).
    pub fn odd(&self) -> &[OddEntry] {
        &self.odd
    }

    /// Returns the number of all entries that could not be read.
    pub fn odd_count(&self) -> usize {
        self.odd_count
    }
}

/// An entry of a store that stands where a lock may be, and that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OddEntry {
    /// The place in the store: the path of a file, a key, an item.
    pub place: String,
    /// The reason why it cannot be read, and what to do, without secrets.
    pub reason: String,
}

impl OddEntry {
    /// Describes the entry at `place`.
    pub fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into() }
    }
}

impl fmt::Display for OddEntry {
    /// Writes the place and the reason, or only a reason that names the place. Both may contain any
    /// character: a printer escapes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.reason.contains(&self.place) {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_counts_the_odd_entries_that_it_drops() {
        let mut listing = Listing::default();
        for n in 0..Listing::MOST_ODD + 5 {
            listing.note_odd(OddEntry::new(n.to_string(), "odd"));
        }
        assert_eq!((listing.odd().len(), listing.odd_count()), (Listing::MOST_ODD, Listing::MOST_ODD + 5));
        let mut both = Listing::default();
        for _ in 0..2 {
            both.note_odd_of(&listing, |entry| OddEntry::new(format!("from: {}", entry.place), &*entry.reason));
        }
        assert_eq!((both.odd().len(), both.odd_count()), (Listing::MOST_ODD, 2 * (Listing::MOST_ODD + 5)));
        assert_eq!(both.odd()[3].to_string(), "from: 3: odd");
        assert_eq!(OddEntry::new("/x.lock", "cannot open /x.lock").to_string(), "cannot open /x.lock");
    }
}
