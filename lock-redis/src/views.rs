//! Compares what the servers of a quorum say about the holders of a lock.

use lock_core::Holder;

pub(crate) fn same(a: &Holder, b: &Holder) -> bool {
    identity(a) == identity(b)
}

/// What distinguishes a holder from another one.
fn identity(holder: &Holder) -> [Option<&str>; 3] {
    [holder.version.as_deref(), holder.owner.as_deref(), holder.foreign.as_deref()]
}

/// The holders that `view` names.
pub(crate) fn all_of(view: &Holder) -> impl Iterator<Item = &Holder> {
    std::iter::once(view).chain(&view.others)
}

/// The first of the holders that `view` names.
pub(crate) fn alone(view: &Holder) -> Holder {
    view.clone().with_others(Vec::new()).with_more(0)
}

/// What distinguishes the holders that `view` names from others, in any order.
pub(crate) fn identities(view: &Holder) -> Vec<[Option<String>; 3]> {
    let mut all: Vec<_> = all_of(view).map(|holder| identity(holder).map(|text| text.map(str::to_owned))).collect();
    all.sort();
    all
}

/// Whether a server whose answer is `view` has all of the holders.
pub(crate) fn has_all(view: &Holder, holders: &Holder) -> bool {
    let named = |one: &Holder| all_of(view).any(|holder| same(holder, one));
    // Servers with more holders than they name may name different ones.
    all_of(holders).all(named) || view.more > 0 && view.count() >= holders.count()
}

/// Returns what most servers say.
pub(crate) fn most_frequent(views: Vec<Holder>) -> Option<Holder> {
    let count = |one: &Holder| views.iter().filter(|view| same(view, one)).count();
    views.iter().max_by_key(|view| count(view)).cloned()
}
