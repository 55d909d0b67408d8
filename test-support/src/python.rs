//! Python environments: with the foreign clients that the tests run against, and with the tools of
//! infrastructure as code.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// The packages, one `name==version` a line.
pub const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python-requirements.txt");
const INFRASTRUCTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python-infrastructure-requirements.txt");

/// Returns the Python that `ONELOCK_TEST_PYTHON` names. If it is not set, returns the one of a
/// virtual environment below the target directory, which the first call creates.
///
/// # Panics
/// If the environment cannot be created. The message names the command that failed.
pub fn python() -> PathBuf {
    std::env::var_os("ONELOCK_TEST_PYTHON")
        .map_or_else(|| virtual_environment("test-python", REQUIREMENTS), PathBuf::from)
}

/// Returns the Python with the CDK of AWS and Pulumi. They have a separate environment, because
/// they are larger than everything else together, and only two tests need them.
///
/// # Panics
/// If the environment cannot be created. The message names the command that failed.
pub fn infrastructure() -> PathBuf {
    virtual_environment("test-python-infrastructure", INFRASTRUCTURE)
}

/// Returns the Python of the environment `name` below the target directory, which the first call
/// creates.
fn virtual_environment(name: &str, requirements: &str) -> PathBuf {
    let target = crate::target_directory();
    fs::create_dir_all(&target).expect("the target directory can be made");
    // Each test is a process. The first one creates the environment, and the others wait.
    let turn = File::create(target.join(format!("{name}.lock"))).expect("the target directory is ours");
    turn.lock().expect("a local file can be locked");
    let directory = target.join(name);
    let (python, done) = (directory.join("bin/python"), directory.join("requirements.txt"));
    let wanted = fs::read_to_string(requirements).expect("it is part of the crate");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Path::new("python3"), &["-m", "venv", text(&directory)]);
    run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]);
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
