//! The conformance suite on the shelf: all that it takes.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{backend::Backend, testing::Subject};
use lock_shelf::Shelf;

struct TheShelf(Shelf);

#[async_trait]
impl Subject for TheShelf {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }
}

lock_core::conformance! {
    #[tokio::test(start_paused = true)]
    TheShelf(Shelf::default()),
    except = [
        (modes, "one client holds a place of the shelf"),
        (hand_over, "a grant has one token"),
        (fair, "waiters have no places in a queue"),
        (a_refusal_reports_the_current_holder, "the shelf keeps no owner"),
        (the_next_grant_reports_a_crashed_holder, "the shelf keeps no owner"),
        (fencing_tokens_increase_across_a_forced_break, "nothing is broken on the shelf"),
        (the_next_renewal_reports_a_broken_lease, "nothing is broken on the shelf"),
        (breaking_requires_the_current_lock_version, "nothing is broken on the shelf"),
        (releasing_a_broken_lease_reports_not_held, "nothing is broken on the shelf"),
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
        (a_watch_completes_after_the_release, "waiters poll the shelf"),
        (an_unused_wake_up_reaches_another_watcher, "waiters poll the shelf"),
        (inspect_reports_the_holder_until_release, "the shelf keeps no owner"),
        (list_returns_held_locks_under_a_prefix, "the shelf keeps no owner"),
        (the_next_renewal_reports_a_deleted_record, "only its clients reach the shelf"),
        (a_replaced_record_belongs_to_another_client, "only its clients reach the shelf"),
        (fencing_tokens_increase_after_their_record_is_deleted, "only its clients reach the shelf"),
        (an_odd_entry_is_listed_and_hides_no_lock, "only its clients reach the shelf"),
    ]
}
