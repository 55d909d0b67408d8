//! The conformance kit of the core, on a real directory.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{backend::Backend, testing::Subject};
use lock_efs::FileBackend;
use tempfile::TempDir;

struct Files(TempDir);

#[async_trait]
impl Subject for Files {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(FileBackend::open(self.0.path()).unwrap())
    }
}

lock_core::conformance! {
    #[tokio::test]
    Files(tempfile::tempdir().unwrap()),
    except = [
        (tokens_rise_across_break, "the kernel's lock cannot be taken from its holder"),
        (an_expired_lock_is_granted_in_one_attempt, "a file lock has no ttl"),
        (a_lock_is_held_for_the_holders_ttl, "a file lock has no ttl"),
        (renewal_extends_the_lease, "a file lock has no ttl"),
        (renewing_an_expired_lease_does_not_rob_the_successor, "a file lock has no ttl"),
        (a_broken_lease_is_lost_at_the_next_renewal, "the kernel's lock cannot be taken from its holder"),
        (break_compares_the_version, "the kernel's lock cannot be taken from its holder"),
        (a_leader_that_is_cut_off_stops_before_the_next_starts, "a file lock has no ttl"),
    ]
}

/// The same cases once more, in a guest, where the temporary directory is on an NFSv4.1 mount. But for the watch: nothing wakes there.
#[test]
fn all_cases_on_nfs() {
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    let script = format!(
        "#!/bin/bash\non_a mkdir /efs/tmp && on_a env TMPDIR=/efs/tmp {name} --skip all_cases_on_nfs --skip a_watch_sees_the_release \
         --skip a_wake_up_that_is_not_used_is_passed_on --test-threads 4 2>&1\n"
    );
    let out = integration::nfs::Guest::new(script).with(&own).run();
    assert!(out.contains("test result: ok"), "{out}");
}
