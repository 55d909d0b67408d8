//! Runs the tests of the package by pytest, against real servers. Each file is one test, so that
//! they run side by side.

mod lambda;
mod torture;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use test_support::{dynamodb::DynamoDbLocal, python::python, redis::RedisServer};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// A directory with the package: its sources, and the module that this build made.
struct Package(tempfile::TempDir);

impl Package {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory for the package");
        copy(&Path::new(CRATE).join("python/onelock"), &place.path().join("onelock"));
        fs::copy(built_module(), place.path().join("onelock/_onelock.abi3.so")).expect("cargo has built the module");
        Self(place)
    }

    /// Runs Python with `arguments` in the directory of the crate, so that `onelock` is this
    /// package.
    fn python(&self, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = Command::new(python());
        command.args(arguments).current_dir(CRATE).envs(variables.iter().copied());
        command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
        self.add_to(&mut command);
        succeed(&mut command);
    }

    /// Lets a Python that `command` starts find the package, and the modules of the tests.
    fn add_to(&self, command: &mut Command) {
        let mut search = OsString::from(self.0.path());
        search.push(":");
        search.push(Path::new(CRATE).join("tests"));
        command.env("PYTHONPATH", search).env("PYTHONDONTWRITEBYTECODE", "1");
    }
}

/// Returns the module that `ONELOCK_TEST_MODULE` names, such as that of a release. Without it,
/// returns that of this build, which is beside the test binary.
fn built_module() -> PathBuf {
    if let Some(module) = env::var_os("ONELOCK_TEST_MODULE") {
        return module.into();
    }
    let test = env::current_exe().expect("this program has a path");
    let deps = test.parent().expect("a program is in a directory");
    deps.join(format!("{}_onelock{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the directory is ours");
    for entry in fs::read_dir(from).expect("the package has sources") {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("a readable directory");
        if path.is_dir() {
            copy(&path, &to);
        } else if path.extension().is_none_or(|suffix| suffix != "so") {
            fs::copy(&path, to).expect("the directory is ours");
        }
    }
}

/// Runs one file of tests against all stores.
fn pytest(file: &str) {
    let redis = RedisServer::start();
    let dynamodb = DynamoDbLocal::shared();
    let table = format!("onelock-py-{}", std::process::id());
    dynamodb.create_table(&table);
    let redis = format!("redis://{}/0", redis.addr());
    let login = "region=eu-central-1&access_key_id=test&secret_access_key=test";
    let dynamodb = format!("dynamodb://{table}?endpoint={}&{login}", dynamodb.endpoint());
    let stores = [("ONELOCK_TEST_REDIS", &*redis), ("ONELOCK_TEST_DYNAMODB", &*dynamodb)];
    let file = format!("tests/{file}");
    let options = ["-m", "pytest", "-q", "-p", "onelock.pytest_plugin", "-p", "no:cacheprovider", "--tb=short", "-x"];
    Package::new().python(&[&options[..], &[&file]].concat(), &stores);
}

#[test]
// verifies: P4, P11, contention
fn locks_of_each_store() {
    pytest("test_locks.py");
}

#[test]
// verifies: P3
fn losses_are_told() {
    pytest("test_loss.py");
}

#[test]
// verifies: P10, forked, cancelled
fn forks_signals_and_exits_leave_nothing() {
    pytest("test_process.py");
}

#[test]
// verifies: P10, cancelled
fn exits_of_python_leave_no_lock() {
    pytest("test_exit.py");
}

#[test]
// verifies: cancelled
fn asyncio_cancels_at_any_moment() {
    pytest("test_asyncio.py");
}

#[test]
// verifies: foreign-client
fn other_programs_are_excluded() {
    pytest("test_others.py");
}

#[test]
// verifies: foreign-client
fn clients_of_the_same_locks_are_excluded() {
    pytest("test_clients.py");
}

#[test]
fn the_decorator_and_the_fixtures() {
    pytest("test_decorator.py");
}

/// A host with pip and without Rust.
#[test]
fn the_wheel_installs_into_an_empty_environment() {
    let place = tempfile::tempdir().expect("a directory for the test");
    let (module, out) = (place.path().join("lib_onelock.so"), place.path().join("out"));
    succeed(Command::new("strip").arg("-o").arg(&module).arg(built_module()));
    succeed(Command::new(Path::new(CRATE).join("../packaging/pack")).arg("--fast").args([&module, &out]));
    let wheel =
        fs::read_dir(&out).expect("it was written").next().expect("one wheel").expect("a readable entry").path();
    let empty = place.path().join("empty");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&empty));
    let pip = ["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"];
    succeed(Command::new(empty.join("bin/python")).args(pip).arg(&wheel));
    let lines =
        "import onelock\nlocker = onelock.Locker('memory:')\nwith locker.lock('x') as guard:\n    guard.check()";
    succeed(Command::new(empty.join("bin/python")).args(["-c", lines]).current_dir(place.path()));
}

fn succeed(command: &mut Command) {
    let status = command.status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
}

/// The Python blocks of the package's own pages.
#[test]
fn the_pages_run_as_shown() {
    pytest("test_docs.py");
}

#[test]
fn the_types_hold() {
    let package = Package::new();
    package.python(&["-m", "mypy", "--no-incremental", "--strict", "python/onelock"], &[]);
    // The tests use the package as its users do.
    package.python(&["-m", "mypy", "--no-incremental", "--strict", "tests", "benches"], &[]);
    let interpreter = python().display().to_string();
    // Otherwise it asks the registry whether there is a newer version.
    let pinned = ("PYRIGHT_PYTHON_IGNORE_WARNINGS", "1");
    package.python(&["-m", "pyright", "--pythonpath", &interpreter], &[pinned]);
    package.python(&["-m", "ruff", "check", "--no-cache", "python", "tests", "benches"], &[]);
    package.python(&["-m", "ruff", "format", "--no-cache", "--check", "python", "tests", "benches"], &[]);
}
