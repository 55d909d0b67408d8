//! Stores for tests of applications: a test takes locks away, and makes requests fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, ErrorKind, Guard, Locker, Operation, Renew, TryAcquire,
    backend::Backend,
    config::{BackendFactory, StoreConfig},
    faults::{Fault, Faulty},
    memory::MemoryBackend,
};
use pyo3::prelude::*;

use crate::{engine::Engine, errors};

/// The scheme of a test's own store.
const SCHEME: &str = "memory+test";

/// The stores of all tests that run in this process, by their numbers.
static STORES: Mutex<Stores> = Mutex::new(Stores { next: 0, open: BTreeMap::new() });

struct Stores {
    next: u64,
    open: BTreeMap<u64, Faulty>,
}

fn stores() -> MutexGuard<'static, Stores> {
    STORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens `memory+test://NUMBER`, the store of one test.
#[derive(Debug)]
pub(crate) struct TestFactory;

impl TestFactory {
    fn find(config: &mut StoreConfig) -> Result<Faulty, Error> {
        let number = config.take_host("NUMBER")?.name.parse().ok();
        config.finish()?;
        let found = number.and_then(|number: u64| stores().open.get(&number).cloned());
        found.ok_or_else(|| config.error("there is no such store; the test that made it has ended"))
    }
}

#[async_trait]
impl BackendFactory for TestFactory {
    fn schemes(&self) -> &[&str] {
        &[SCHEME]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::find(config)?))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        Self::find(config).map(drop)
    }
}

/// A store in memory of one test, and the faults of its requests.
#[pyclass(frozen)]
pub(crate) struct TestStore {
    number: u64,
    store: MemoryBackend,
    faults: Faulty,
    /// The locks that another client holds.
    held: Mutex<BTreeMap<String, Guard>>,
}

impl TestStore {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Guard>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl TestStore {
    #[new]
    fn new() -> Self {
        let store = MemoryBackend::new();
        let faults = Faulty::new(store.clone());
        let mut stores = stores();
        let number = stores.next;
        stores.next += 1;
        stores.open.insert(number, faults.clone());
        Self { number, store, faults, held: Mutex::default() }
    }

    #[getter]
    fn url(&self) -> String {
        format!("{SCHEME}://{}", self.number)
    }

    /// Takes the lock away from its holder, as a store that loses its data would.
    fn lose(&self, name: &str) {
        self.store.lose(name);
    }

    /// Lets another client of this name hold the lock.
    fn hold(&self, py: Python<'_>, name: &str, owner: &str) -> PyResult<()> {
        let held = Engine::here()?.runtime.block_on(async {
            let request = Locker::new(self.store.clone())?.lock(name).owner(owner);
            request.ttl(Duration::from_secs(24 * 3600)).renew(Renew::Manual).try_acquire().await
        });
        match held.map_err(|error| errors::to_py(py, &error))? {
            TryAcquire::Acquired(guard) => self.held().insert(name.to_owned(), guard),
            TryAcquire::Contended(holder) => {
                return Err(errors::config(py, format!("\"{name}\" is held already, by {holder}")));
            }
        };
        Ok(())
    }

    /// Lets the other client release the lock.
    fn free(&self, name: &str) {
        let guard = self.held().remove(name);
        drop(guard);
    }

    /// Makes the next request of `operation` fail with an error of `kind`. Nothing changes in the
    /// store.
    fn fail_next(&self, py: Python<'_>, operation: &str, kind: &str) -> PyResult<()> {
        self.faults.next(operation_of(py, operation)?, Fault::Refuse(kind_of(py, kind)?));
        Ok(())
    }

    /// Loses the reply of the next request of `operation`, which takes effect.
    fn never_reply_next(&self, py: Python<'_>, operation: &str) -> PyResult<()> {
        self.faults.next(operation_of(py, operation)?, Fault::LoseReply);
        Ok(())
    }

    /// Returns the number of requests of `operation`.
    fn sent(&self, py: Python<'_>, operation: &str) -> PyResult<u64> {
        Ok(self.faults.sent(operation_of(py, operation)?))
    }

    /// Ends the store, so that no later test finds it.
    fn close(&self) {
        stores().open.remove(&self.number);
    }
}

const OPERATIONS: &[Operation] =
    &[Operation::Acquire, Operation::Renew, Operation::Release, Operation::Inspect, Operation::List, Operation::Break];

const KINDS: &[ErrorKind] = &[
    ErrorKind::Config,
    ErrorKind::Unsupported,
    ErrorKind::PermissionDenied,
    ErrorKind::StoreNotReady,
    ErrorKind::Unavailable,
    ErrorKind::Timeout,
    ErrorKind::Throttled,
    ErrorKind::Limit,
    ErrorKind::Full,
    ErrorKind::Corrupt,
    ErrorKind::Other,
];

fn operation_of(py: Python<'_>, word: &str) -> PyResult<Operation> {
    one_of(py, "operation", word, OPERATIONS, |operation| operation.as_str())
}

fn kind_of(py: Python<'_>, word: &str) -> PyResult<ErrorKind> {
    one_of(py, "kind", word, KINDS, |kind| kind.as_str())
}

fn one_of<T: Copy>(py: Python<'_>, what: &str, word: &str, all: &[T], as_str: fn(T) -> &'static str) -> PyResult<T> {
    all.iter().copied().find(|one| as_str(*one) == word).ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|one| as_str(*one)).collect();
        errors::config(py, format!("there is no {what} \"{word}\"; there are: {}", words.join(", ")))
    })
}
