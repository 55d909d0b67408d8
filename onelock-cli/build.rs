//! Tells the program from which commit it was built, for `onelock --version`.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=ONELOCK_COMMIT");
    // Of a debug build each commit would make a new program, which every test would link again.
    let named = env::var("ONELOCK_COMMIT").ok().filter(|commit| !commit.is_empty());
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let found = || is_release.then(|| commit(Path::new(&directory))).flatten();
    if let Some(commit) = named.or_else(found) {
        println!("cargo::rustc-env=ONELOCK_COMMIT={commit}");
    }
}

/// Returns the commit of the crate in `directory`: from the file that `cargo package` adds, or from
/// git if the crate is a part of the work tree. A crate that was unpacked inside another project's
/// work tree must not get that project's commit.
pub(crate) fn commit(directory: &Path) -> Option<String> {
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(packaged) = fs::read_to_string(directory.join(".cargo_vcs_info.json")) {
        let (_, behind) = packaged.split_once("\"sha1\"")?;
        return behind.split('"').nth(1).map(shortened);
    }
    git(directory, &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // The log grows with each commit. Without one, cargo runs this again at each build.
    let log = git(directory, &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={}", directory.join(log).display());
    git(directory, &["rev-parse", "HEAD"]).map(|commit| shortened(&commit))
}

fn shortened(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// Returns what git prints; `None` without git, or if git fails.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
