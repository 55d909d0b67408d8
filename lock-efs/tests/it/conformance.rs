//! The conformance kit of the core, on a real directory.

use std::{
    fs::{self, File},
    sync::{Arc, Mutex},
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
            _ => return false,
        }
        true
    }
}

lock_core::conformance! {
    #[tokio::test]
    Files::new(),
    except = [
        (tokens_rise_across_break, "the kernel's lock cannot be taken from its holder"),
        (an_expired_lock_is_granted_in_one_attempt, "a file lock has no ttl"),
        (a_lock_is_held_for_the_holders_ttl, "a file lock has no ttl"),
        (renewal_extends_the_lease, "a file lock has no ttl"),
        (renewing_an_expired_lease_does_not_rob_the_successor, "a file lock has no ttl"),
        (a_broken_lease_is_lost_at_the_next_renewal, "the kernel's lock cannot be taken from its holder"),
        (break_compares_the_version, "the kernel's lock cannot be taken from its holder"),
        (releasing_a_broken_lease_is_a_value, "the kernel's lock cannot be taken from its holder"),
        (a_hung_renewal_ends_the_guard_before_the_next_holds, "a file lock has no ttl"),
        (renewals_that_are_throttled_for_too_long_end_the_guard, "a file lock has no ttl"),
        (a_suspended_holder_knows_at_once_and_spares_its_successor, "a file lock has no ttl"),
        (a_thawed_holder_knows_at_once_and_spares_its_successor, "a file lock has no ttl"),
        (a_clock_that_is_set_back_prolongs_no_lease, "a file lock has no ttl"),
        (a_leader_that_is_cut_off_stops_before_the_next_starts, "a file lock has no ttl"),
    ]
}

/// The same cases once more, in a guest, where the temporary directory is on an NFSv4.1 mount. But
/// for the watch: nothing wakes there.
#[test]
fn all_cases_on_nfs() {
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    // One case by itself first: the first locks on a fresh mount of an emulated guest take seconds.
    let script = format!(
        "#!/bin/bash\non_a mkdir /efs/tmp && on_a env TMPDIR=/efs/tmp {name} --exact conformance::a_free_lock_is_granted 2>&1 && \
         on_a env TMPDIR=/efs/tmp {name} conformance:: --skip all_cases_on_nfs --skip a_watch_sees_the_release \
         --skip a_wake_up_that_is_not_used_is_passed_on --test-threads 2 2>&1\n"
    );
    let out = test_support::nfs::Guest::new(script).with(&own).run();
    assert_eq!(out.matches("test result: ok").count(), 2, "{out}");
}
