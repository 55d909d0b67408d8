//! The conformance suite on a migration from files to PostgreSQL.

use std::{sync::Arc, time::Duration};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName,
    backend::{Admin, Backend},
    files::FileBackend,
    migrate::MigrationBackend,
};

use crate::rows::Rows;

/// The lease of the locks in PostgreSQL.
///
/// It equals the lease of an NFS server, which the suite assumes where no ttl can be chosen.
const LEASE: Duration = Duration::from_secs(90);

struct FilesAndPostgres {
    dir: tempfile::TempDir,
    rows: Rows,
}

impl FilesAndPostgres {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), rows: Rows::new() }
    }

    fn files(&self) -> FileBackend {
        FileBackend::open(self.dir.path()).unwrap()
    }
}

#[async_trait::async_trait]
impl Subject for FilesAndPostgres {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(MigrationBackend::new(Arc::new(self.files()), self.rows.client().await).lease(LEASE))
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Time passes faster in PostgreSQL, by the ratio of the lease to the suite's ttl.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.rows.age(time.mul_f64(LEASE.as_secs_f64() / self.ttl().as_secs_f64()));
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        match what {
            Tampering::DeleteRecord => self.rows.delete(name),
            Tampering::DeleteToken => {
                let postgres = self.rows.client().await;
                return self.files().purge(name).await.unwrap() && postgres.purge(name).await.unwrap();
            }
            Tampering::AddOddEntry => {
                std::os::unix::fs::symlink("/nowhere", self.files().lock_path(name)).unwrap();
            }
            _ => return false,
        }
        true
    }
}

conformance_with_files! {
    FilesAndPostgres::new(),
    except = [
        (a_replaced_record_belongs_to_another_client, "a client that replaces the row has no lock file; \
            lock-migrate runs this case on two memory stores"),
    ]
}
