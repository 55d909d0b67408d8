//! Runs the conformance suite of the core on a real directory.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Tampering},
};
use lock_efs::FileBackend;
use tempfile::TempDir;

struct Files {
    directory: TempDir,
    /// Locks of another program, held until the end of the case.
    foreign: Mutex<Vec<File>>,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), foreign: Mutex::default() }
    }

    fn open(&self) -> FileBackend {
        FileBackend::open(self.directory.path()).unwrap()
    }
}

#[async_trait]
impl Subject for Files {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.open())
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        let lock = self.open().lock_path(name);
        match what {
            Tampering::DeleteRecord => fs::remove_file(lock).unwrap(),
            Tampering::ReplaceRecord => {
                fs::remove_file(&lock).unwrap();
                let file = File::create_new(&lock).unwrap();
                file.lock().unwrap();
                self.foreign.lock().unwrap().push(file);
            }
            Tampering::DeleteToken => fs::remove_file(lock.with_extension("info")).unwrap(),
            Tampering::AddOddEntry => symlink("/nowhere", lock).unwrap(),
            _ => return false,
        }
        true
    }
}

lock_core::conformance! {
    #[tokio::test]
    Files::new(),
    except = [
        #[cfg(not(target_os = "linux"))]
        (modes, "only Linux has locks of bytes that belong to an open file"),
        #[cfg(not(target_os = "linux"))]
        (fair, "a place ends with its process, and is a lock of a byte, which only Linux has for an open file"),
        (a_break_ends_the_part_of_one_holder, "the kernel's lock cannot be taken from its holder"),
        (fencing_tokens_increase_across_a_forced_break, "the kernel's lock cannot be taken from its holder"),
        (an_expired_lock_is_granted_in_one_attempt, "a file lock has no ttl"),
        (the_holders_ttl_decides_when_a_lock_expires, "a file lock has no ttl"),
        (renewing_keeps_the_lease_past_its_ttl, "a file lock has no ttl"),
        (renewing_an_expired_lease_leaves_its_successor_alone, "a file lock has no ttl"),
        (the_next_renewal_reports_a_broken_lease, "the kernel's lock cannot be taken from its holder"),
        (breaking_requires_the_current_lock_version, "the kernel's lock cannot be taken from its holder"),
        (releasing_a_broken_lease_reports_not_held, "the kernel's lock cannot be taken from its holder"),
        (a_hung_renewal_loses_the_guard_before_takeover, "a file lock has no ttl"),
        (throttled_renewals_lose_the_guard_before_takeover, "a file lock has no ttl"),
        (a_suspended_holder_reports_its_loss_immediately, "a file lock has no ttl"),
        (a_thawed_holder_reports_its_loss_immediately, "a file lock has no ttl"),
        (setting_the_clock_back_extends_no_lease, "a file lock has no ttl"),
        (an_isolated_leader_stops_before_the_next_starts, "a file lock has no ttl"),
        (a_dead_fair_waiter_is_skipped_after_its_ttl, "a place has no ttl, and ends with its process"),
        (a_late_fair_request_keeps_the_lock_for_a_ttl_at_most, "a file lock has no ttl"),
    ]
}

/// Runs the same cases in a guest whose temporary directory is on an NFSv4.1 mount. The cases of
/// the watch are skipped, because NFS has no wake-up.
#[test]
fn all_cases_on_nfs() {
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    // One case runs alone first: the first locks on a fresh mount of an emulated guest take
    // seconds.
    let script = format!(
        "#!/bin/bash\non_a mkdir /efs/tmp && on_a env TMPDIR=/efs/tmp {name} --exact \
         conformance::acquiring_a_free_lock_grants_it 2>&1 && \
         on_a env TMPDIR=/efs/tmp {name} conformance:: --skip all_cases_on_nfs --skip \
         a_watch_completes_after_the_release \
         --skip an_unused_wake_up_reaches_another_watcher --test-threads 2 2>&1\n"
    );
    let out = test_support::nfs::Guest::new(script).limit(Duration::from_secs(900)).with(&own).run();
    assert_eq!(out.matches("test result: ok").count(), 2, "{out}");
}
