//! Migrations between real stores, and how processes share a lock on each store.

/// The conformance suite on a migration with lock files: its locks have no ttl, and no operator can
/// break them.
#[cfg(feature = "files")]
macro_rules! conformance_with_files {
    ($subject:expr, except = [$($more:tt)*]) => {
        lock_core::conformance! {
            #[tokio::test]
            $subject,
            except = [
                (an_expired_lock_is_granted_in_one_attempt, "no ttl can be chosen"),
                (the_holders_ttl_decides_when_a_lock_expires, "no ttl can be chosen"),
                (renewing_keeps_the_lease_past_its_ttl, "no ttl can be chosen"),
                (renewing_an_expired_lease_leaves_its_successor_alone, "no ttl can be chosen"),
                (an_isolated_leader_stops_before_the_next_starts, "no ttl can be chosen"),
                (a_hung_renewal_loses_the_guard_before_takeover, "no ttl can be chosen"),
                (throttled_renewals_lose_the_guard_before_takeover, "no ttl can be chosen"),
                (a_suspended_holder_reports_its_loss_immediately, "no ttl can be chosen"),
                (a_thawed_holder_reports_its_loss_immediately, "no ttl can be chosen"),
                (setting_the_clock_back_extends_no_lease, "no ttl can be chosen"),
                (fencing_tokens_increase_across_a_forced_break, "a lock file cannot be taken from its holder"),
                (the_next_renewal_reports_a_broken_lease, "a lock file cannot be taken from its holder"),
                (breaking_requires_the_current_lock_version, "a lock file cannot be taken from its holder"),
                (releasing_a_broken_lease_reports_not_held, "a lock file cannot be taken from its holder"),
                (hand_over, "a grant has one token"),
                (fair, "waiters have no places in a queue"),
                (a_break_ends_the_part_of_one_holder, "a lock file cannot be taken from its holder"),
                $($more)*
            ]
        }
    };
}

#[cfg(all(feature = "files", feature = "redis", feature = "dynamo", feature = "object", feature = "postgres"))]
mod checks;
#[cfg(all(feature = "dynamo", feature = "redis"))]
mod dynamo_to_redis;
#[cfg(all(feature = "files", feature = "dynamo"))]
mod files_to_dynamo;
#[cfg(feature = "files")]
mod files_to_files;
#[cfg(all(feature = "files", feature = "postgres"))]
mod files_to_postgres;
#[cfg(all(feature = "files", feature = "redis"))]
mod files_to_redis;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod postgres_to_redis;
#[cfg(feature = "postgres")]
mod rows;
#[cfg(all(feature = "files", feature = "redis", feature = "dynamo", feature = "object", feature = "postgres"))]
mod sharing;
#[cfg(feature = "dynamo")]
mod table;
