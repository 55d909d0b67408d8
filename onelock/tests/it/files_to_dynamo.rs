//! The conformance suite on a migration from files to DynamoDB.

use std::{sync::Arc, time::Duration};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName,
    backend::{Admin, Backend},
    files::FileBackend,
    migrate::MigrationBackend,
};

use crate::table::Table;

/// The lease of the locks in DynamoDB.
///
/// It equals the lease of an NFS server, which the suite assumes where no ttl can be chosen.
const LEASE: Duration = Duration::from_secs(90);

struct FilesAndDynamo {
    dir: tempfile::TempDir,
    table: Table,
}

impl FilesAndDynamo {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), table: Table::new() }
    }

    fn files(&self) -> FileBackend {
        FileBackend::open(self.dir.path()).unwrap()
    }
}

#[async_trait::async_trait]
impl Subject for FilesAndDynamo {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(Arc::new(self.files()), Arc::new(self.table.client())).lease(LEASE))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// The leases in DynamoDB end earlier, by the ratio of the lease to the suite's ttl.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.table.age(time.mul_f64(LEASE.as_secs_f64() / self.ttl().as_secs_f64()));
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.table.delete(name),
            Tampering::AddOddEntry => self.table.put_item_that_is_no_lock(name),
            Tampering::DeleteToken => {
                self.table.delete(name);
                return self.files().purge(name).await.unwrap();
            }
            _ => return false,
        }
        true
    }
}

conformance_with_files! {
    FilesAndDynamo::new(),
    except = [
        (a_watch_completes_after_the_release, "DynamoDB cannot wake waiters"),
        (an_unused_wake_up_reaches_another_watcher, "DynamoDB cannot wake waiters"),
        (a_replaced_record_belongs_to_another_client, "a client that replaces the item has no lock file; the \
            migration from DynamoDB to Redis runs this case"),
    ]
}
