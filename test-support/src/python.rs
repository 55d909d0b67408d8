//! A Python environment with the foreign clients that the tests run against.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// The packages, one `name==version` a line.
pub const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python-requirements.txt");

/// Returns the Python that `ONELOCK_TEST_PYTHON` names. If it is not set, returns the one of a
/// virtual environment below the target directory, which the first call creates.
///
/// # Panics
/// If the environment cannot be created. The message names the command that failed.
pub fn python() -> PathBuf {
    std::env::var_os("ONELOCK_TEST_PYTHON").map_or_else(virtual_environment, PathBuf::from)
}

fn virtual_environment() -> PathBuf {
    let target = crate::target_directory();
    fs::create_dir_all(&target).expect("the target directory can be made");
    // Each test is a process. The first one creates the environment, and the others wait.
    let turn = File::create(target.join("test-python.lock")).expect("the target directory is ours");
    turn.lock().expect("a local file can be locked");
    let directory = target.join("test-python");
    let (python, done) = (directory.join("bin/python"), directory.join("requirements.txt"));
    let wanted = fs::read_to_string(REQUIREMENTS).expect("it is part of the crate");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Path::new("python3"), &["-m", "venv", text(&directory)]);
    run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]);
    fs::write(done, wanted).expect("the target directory is ours");
    python
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the build is UTF-8")
}

fn run(program: &Path, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let ran = status.is_ok_and(|status| status.success());
    assert!(ran, "{} {arguments:?} failed; on Debian: apt-get install python3-venv", program.display());
}
