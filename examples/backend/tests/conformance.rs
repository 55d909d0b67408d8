//! The conformance kit on the shelf: all that it takes.

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
        (a_refusal_says_who_holds_the_lock, "the shelf keeps no owner"),
        (the_winner_is_told_of_a_crashed_holder, "the shelf keeps no owner"),
        (tokens_rise_across_break, "nothing is broken on the shelf"),
        (a_broken_lease_is_lost_at_the_next_renewal, "nothing is broken on the shelf"),
        (break_compares_the_version, "nothing is broken on the shelf"),
        (releasing_a_broken_lease_is_a_value, "nothing is broken on the shelf"),
        (a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
        (a_watch_sees_the_release, "waiters poll the shelf"),
        (a_wake_up_that_is_not_used_is_passed_on, "waiters poll the shelf"),
        (inspect_sees_the_holder, "the shelf keeps no owner"),
        (list_shows_held_locks_by_prefix, "the shelf keeps no owner"),
        (a_deleted_record_is_a_loss_at_the_next_renewal, "nobody but its clients reaches the shelf"),
        (a_replaced_record_is_somebody_elses_lock, "nobody but its clients reaches the shelf"),
        (tokens_rise_although_their_record_was_deleted, "nobody but its clients reaches the shelf"),
    ]
}
