//! One store, for Python: it is checked when it is made, and opened at its first use in each
//! process.

use std::{
    fmt, mem,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lock_core::{
    Capability, ConfigString, Error, ErrorKind, Guard, LockRequest, Locker, Operation, Registry, Timing, TryAcquire,
    backend::Process,
};
use once_cell::race::OnceBox;
use onelock::files::UserDirectory;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    answer::{Answer, seconds},
    background::{CountedGuard, Settles},
    bell::Bell,
    errors,
    op::{Cell, Op},
    options,
    testing::TestFactory,
};

/// The stores of this process. All config strings `memory:` mean the same one.
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| onelock::registry().with(TestFactory));

/// A store by its config string, or the directory of this user.
#[pyclass(frozen, weakref)]
pub(crate) struct Core {
    config: ConfigString,
    /// Set if the user named no store.
    directory: Option<UserDirectory>,
    made_in: Process,
    opened: Arc<Opened>,
}

/// The open store of one process, and those of its children. A list, and not a lock around the last
/// one: a fork in another thread would leave the lock locked in the child.
struct Opened {
    process: Process,
    locker: Mutex<Option<Locker>>,
    next: OnceBox<Arc<Self>>,
}

impl Opened {
    fn new() -> Arc<Self> {
        Arc::new(Self { process: Process::current(), locker: Mutex::default(), next: OnceBox::new() })
    }

    /// Returns the place of this process.
    fn here(self: &Arc<Self>) -> Arc<Self> {
        let mut place = self;
        while !place.process.is_current() {
            place = place.next.get_or_init(|| Box::new(Self::new()));
        }
        Arc::clone(place)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Locker>> {
        self.locker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // Its connections and threads are those of the parent.
            let locker = self.locker.get_mut().unwrap_or_else(PoisonError::into_inner);
            mem::forget(locker.take());
        }
    }
}

/// What Python asks of an open store.
pub(crate) struct About {
    capabilities: Vec<&'static str>,
    timing: Timing,
}

impl About {
    pub(crate) fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let timing = PyDict::new(py);
        timing.set_item("ttl", seconds(self.timing.ttl))?;
        timing.set_item("lease", seconds(self.timing.lease))?;
        timing.set_item("margin", self.timing.margin.as_secs_f64())?;
        timing.set_item("renew_every", seconds(self.timing.renew_every))?;
        timing.set_item("grace", self.timing.grace.as_secs_f64())?;
        timing.set_item("attempt_timeout", self.timing.attempt_timeout.as_secs_f64())?;
        Ok((self.capabilities, timing).into_pyobject(py)?.into_any().unbind())
    }
}

/// How long an acquisition waits.
enum Wait {
    Forever,
    /// One attempt.
    No,
    AtMost(Duration),
}

#[pymethods]
impl Core {
    /// Checks `url` and `options`, which replace those of the URL. Without a URL the store is the
    /// directory of this user.
    #[new]
    fn new(py: Python<'_>, url: Option<&str>, options: Vec<(String, String)>) -> PyResult<Self> {
        Self::checked(url, options).map_err(|error| errors::to_py(py, &error))
    }

    /// Returns the store as a config string without secrets.
    #[getter]
    fn store(&self) -> String {
        self.config.redacted()
    }

    /// Returns the config string with its secrets, to make this store again.
    #[getter]
    fn url(&self) -> Option<String> {
        self.directory.is_none().then(|| self.config.expose())
    }

    /// Starts to acquire the lock. `wait` is in seconds: `None` waits for as long as it takes, 0
    /// makes one attempt. With `watched`, the operation tells of each holder that it meets.
    #[pyo3(signature = (name, wait, options, watched=false, bell=None, key=0))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of one call of Python")]
    fn acquire(
        &self,
        py: Python<'_>,
        name: String,
        wait: Option<f64>,
        options: Py<PyDict>,
        watched: bool,
        bell: Option<&Bell>,
        key: u64,
    ) -> PyResult<Op> {
        let wait = match wait {
            None => Wait::Forever,
            Some(0.0) => Wait::No,
            Some(wait) => Wait::AtMost(options::duration(py, "wait", wait)?),
        };
        let options = options::read(options.bind(py))?;
        let cell = Cell::new(bell.map(|bell| (bell, key)));
        let noted = watched.then(|| Arc::clone(&cell));
        self.start(py, cell, async move |locker| {
            let owner = options.owner().unwrap_or_else(|| locker.owner());
            let mut request = options.apply(locker.lock(name));
            if let Some(noted) = noted {
                request = request.on_contention(move |holder| noted.note_contended(holder));
            }
            let answer = |guard| Answer::Guard(Box::new(CountedGuard::new(guard, owner, locker.clone())));
            acquire(request, wait, answer).await
        })
    }

    #[pyo3(signature = (name, bell=None, key=0))]
    fn inspect(&self, py: Python<'_>, name: String, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            locker.admin().inspect(name).await.map(Answer::Holder)
        })
    }

    #[pyo3(signature = (name, bell=None, key=0))]
    fn last_holder(&self, py: Python<'_>, name: String, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            locker.admin().last_holder(name).await.map(Answer::Past)
        })
    }

    #[pyo3(signature = (prefix, bell=None, key=0))]
    fn list(&self, py: Python<'_>, prefix: String, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            locker.admin().list(prefix).await.map(Answer::Listing)
        })
    }

    /// Breaks the lock if its record is still in the state `version`.
    #[pyo3(signature = (name, version, by, bell=None, key=0))]
    fn break_lock(
        &self,
        py: Python<'_>,
        name: String,
        version: Option<String>,
        by: String,
        bell: Option<&Bell>,
        key: u64,
    ) -> PyResult<Op> {
        let seen = lock_core::Holder::default().with_version(version);
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            locker.admin().break_lock(name, &seen, &by).await.map(Answer::Break)
        })
    }

    #[pyo3(signature = (bell=None, key=0))]
    fn diagnose(&self, py: Python<'_>, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            Ok(Answer::Findings(locker.admin().diagnose().await))
        })
    }

    /// Opens the store, and answers with its capabilities and its timing.
    #[pyo3(signature = (bell=None, key=0))]
    fn about(&self, py: Python<'_>, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        self.start(py, Cell::new(bell.map(|bell| (bell, key))), async move |locker| {
            let has = locker.capabilities();
            let capabilities = Capability::ALL.iter().filter(|one| has.has(**one)).map(|one| one.as_str()).collect();
            Ok(Answer::Store(About { capabilities, timing: locker.timing() }))
        })
    }

    /// Ends the connections of this process once no guard needs them. The next use opens the store
    /// anew.
    fn close(&self) {
        let locker = self.opened.here().lock().take();
        drop(locker);
    }
}

impl Core {
    fn checked(url: Option<&str>, options: Vec<(String, String)>) -> Result<Self, Error> {
        let (mut config, directory) = match url {
            Some(url) => (ConfigString::parse(url)?, None),
            None => {
                let directory = UserDirectory::choose()?;
                (ConfigString::parse(&config_string(directory.path().to_owned())?)?, Some(directory))
            }
        };
        for (name, value) in options {
            config = config.without_option(&name).with_option(name, value)?;
        }
        REGISTRY.check(config.clone())?;
        Ok(Self { config, directory, made_in: Process::current(), opened: Opened::new() })
    }

    /// Starts `work` on the open store.
    fn start<W, F>(&self, py: Python<'_>, cell: Arc<Cell>, work: W) -> PyResult<Op>
    where
        W: FnOnce(Locker) -> F + Send + 'static,
        F: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        self.check_process().map_err(|error| errors::to_py(py, &error))?;
        let (config, directory, opened) = (self.config.clone(), self.directory.clone(), self.opened.here());
        Op::start(cell, async move {
            let locker = opened.lock().clone();
            let locker = match locker {
                Some(locker) => locker,
                None => {
                    let new = open(config, directory).await?;
                    // Another operation may have opened the store meanwhile.
                    opened.lock().get_or_insert(new).clone()
                }
            };
            // Dropped after the work, also if that is cancelled.
            let _settles = Settles(locker.clone());
            work(locker).await
        })
    }

    /// Refuses a store in memory that this process has from its parent: it would exclude no other
    /// process.
    fn check_process(&self) -> Result<(), Error> {
        if self.made_in.is_current() || !self.config.scheme().starts_with("memory") {
            return Ok(());
        }
        let message = "locks in memory exclude no other process, and this process was forked from the one that made \
                       the Locker; use a file: store, or make the Locker after the fork";
        let error = Error::new(ErrorKind::Unsupported, message).with_operation(Operation::Open);
        Err(error.with_store(self.config.redacted()))
    }
}

async fn open(config: ConfigString, directory: Option<UserDirectory>) -> Result<Locker, Error> {
    if let Some(directory) = directory {
        // Creates the directory with the permissions that the default needs. The home may be on a
        // file system that hangs, and the engine's thread must not.
        let made = tokio::task::spawn_blocking(move || directory.open(true).map(drop)).await;
        made.unwrap_or_else(|error| Err(Error::new(ErrorKind::Other, error.to_string())))?;
    }
    REGISTRY.open(config).await
}

async fn acquire(request: LockRequest, wait: Wait, answer: impl FnOnce(Guard) -> Answer) -> Result<Answer, Error> {
    let outcome = match wait {
        Wait::Forever => return request.acquire().await.map(answer),
        Wait::No => request.try_acquire().await?,
        Wait::AtMost(wait) => request.acquire_within(wait).await?,
    };
    Ok(match outcome {
        TryAcquire::Acquired(guard) => answer(guard),
        TryAcquire::Contended(holder) => Answer::Contended(holder),
    })
}

/// Returns the config string of a directory whose path may contain any character.
fn config_string(path: PathBuf) -> Result<String, Error> {
    let path = path.into_os_string().into_string().map_err(|path| {
        let message = format!("the default directory {} is not UTF-8; name a store (ONELOCK_URL)", path.display());
        Error::new(ErrorKind::Config, message).with_operation(Operation::Open)
    })?;
    let parts: Vec<_> = path.split('/').map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()).collect();
    Ok(format!("file://{}", parts.join("/")))
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("store", &self.config.redacted()).finish_non_exhaustive()
    }
}
