//! The commit that the build script finds.

use std::{fs, path::Path, process::Command};

#[allow(dead_code, reason = "main is cargo's")]
#[path = "../../../build.rs"]
mod build_script;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(arguments);
    let output = git.output().expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn commit_comes_from_the_own_work_tree() {
    let directory = tempfile::tempdir().unwrap();
    let (tree, own, other) = (directory.path(), directory.path().join("own"), directory.path().join("other"));
    for crate_directory in [&own, &other] {
        fs::create_dir(crate_directory).unwrap();
        fs::write(crate_directory.join("Cargo.toml"), "").unwrap();
    }
    assert_eq!(build_script::commit(&own), None, "there is no git yet");
    git(tree, &["init", "-q"]);
    assert_eq!(build_script::commit(&own), None, "there is no commit yet");
    git(tree, &["add", "own"]);
    git(tree, &["commit", "-qm", "one"]);
    let commit = git(tree, &["rev-parse", "HEAD"])[..12].to_owned();
    assert_eq!(build_script::commit(&own), Some(commit));
    assert_eq!(build_script::commit(&other), None, "unpacked in another project's tree");
}

#[test]
fn commit_of_a_packaged_crate_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let info = "{\n  \"git\": {\n    \"sha1\": \"4c539d3a5e0f4c539d3a5e0f\"\n  }\n}";
    fs::write(directory.path().join(".cargo_vcs_info.json"), info).unwrap();
    assert_eq!(build_script::commit(directory.path()).as_deref(), Some("4c539d3a5e0f"));
}
