//! The packages of `packaging/pack`: each is installed by its own tool, and its program runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;
use test_support::python::python;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

/// Runs a program that the package of this name has.
fn run(command: &mut Command, package: &str) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}; this test needs it: apt-get install {package}"))
}

fn succeed(command: &mut Command, package: &str) -> String {
    let output = run(command, package);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Packs this build without its debug information, and returns the package and its directory.
fn pack(kind: &str, ending: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("stripped");
    succeed(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_onelock")), "binutils");
    let out = directory.path().join("out");
    let mut pack = Command::new(packaging("pack"));
    pack.env("SOURCE_DATE_EPOCH", "1767225600").arg("--fast").args([&binary, &out]).arg(kind);
    succeed(&mut pack, "python3");
    let mut files = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.to_str().unwrap().ends_with(ending)).unwrap();
    (directory, file)
}

/// Checks the files below a prefix by using them.
fn check_installed(prefix: &Path, zsh: &str, man_ending: &str) {
    let version = succeed(Command::new(prefix.join("bin/onelock")).arg("-V"), "onelock");
    assert_eq!(version, format!("onelock {}\n", env!("CARGO_PKG_VERSION")));
    for path in [
        "share/bash-completion/completions/onelock",
        "share/fish/vendor_completions.d/onelock.fish",
        zsh,
        "share/doc/onelock/copyright",
    ] {
        assert!(fs::read_to_string(prefix.join(path)).unwrap().contains("onelock"), "{path}");
    }
    let page = prefix.join(format!("share/man/man1/onelock-run.1{man_ending}"));
    assert!(succeed(Command::new("man").arg("-l").arg(page), "man-db").contains("EXIT STATUS"));
}

#[test]
fn archive_is_installed_and_removed_by_its_script() {
    let (directory, archive) = pack("archive", ".tar.gz");
    let prefix = directory.path().join("prefix");
    let install = |arguments: &[&str]| {
        let mut install = Command::new(packaging("install.sh"));
        install.arg("--prefix").arg(&prefix).args(arguments).env_remove("DESTDIR");
        run(&mut install, "dash")
    };
    let archive_path = archive.to_str().unwrap();
    assert!(install(&[archive_path]).status.success());
    check_installed(&prefix, "share/zsh/site-functions/_onelock", "");
    assert!(install(&[archive_path]).status.success(), "a second time, as an upgrade");
    assert!(install(&["--uninstall", archive_path]).status.success());
    let left = succeed(Command::new("find").arg(&prefix).args(["-type", "f"]), "findutils");
    assert_eq!(left, "");

    let unpacked = directory.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    succeed(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked), "tar");
    let inside = fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    succeed(Command::new(inside.join("install.sh")).args(["--prefix", prefix.to_str().unwrap()]), "dash");
    check_installed(&prefix, "share/zsh/site-functions/_onelock", "");

    let mut bytes = fs::read(&archive).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&archive, bytes).unwrap();
    let refused = install(&[archive_path]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("checksum"), "{refused:?}");
}

#[test]
fn a_failed_copy_fails_the_installation() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    for file in ["bin/onelock", "share/man/man1/onelock.1"] {
        fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        fs::write(source.join(file), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::copy(packaging("install.sh"), source.join("install.sh")).unwrap();
    let prefix = directory.path().join("prefix");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    std::os::unix::fs::symlink("/no/where", prefix.join("bin/onelock.new")).unwrap();
    let mut install = Command::new(source.join("install.sh"));
    let failed = run(install.arg("--prefix").arg(&prefix).env_remove("DESTDIR"), "dash");
    assert!(!failed.status.success() && failed.stdout.is_empty(), "{failed:?}");
    let mut install = Command::new(source.join("install.sh"));
    let relative = run(install.arg("--prefix").arg(&prefix).env("DESTDIR", "out"), "dash");
    let message = String::from_utf8(relative.stderr).unwrap();
    assert!(message.contains("DESTDIR is out; give a path that begins with /"), "{message}");
}

#[test]
fn install_script_changes_nothing_if_the_program_cannot_run() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("bin")).unwrap();
    fs::write(directory.path().join("bin/onelock"), "of another processor").unwrap();
    fs::copy(packaging("install.sh"), directory.path().join("install.sh")).unwrap();
    let prefix = directory.path().join("prefix");
    let mut install = Command::new(directory.path().join("install.sh"));
    let refused = run(install.arg("--prefix").arg(&prefix), "dash");
    assert!(!refused.status.success() && !prefix.exists(), "{refused:?}");
}

#[test]
fn debian_package_is_installed_and_removed_by_dpkg() {
    let (directory, package) = pack("deb", ".deb");
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display())).args(["--force-not-root", "--force-depends", "--log=/dev/null"]);
        succeed(dpkg.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "dpkg")
    };
    dpkg(&["-i", package.to_str().unwrap()]);
    check_installed(&root.join("usr"), "share/zsh/vendor-completions/_onelock", ".gz");
    dpkg(&["-r", "onelock"]);
    assert!(!root.join("usr/bin/onelock").exists());
    let field = |name: &str| succeed(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name), "dpkg");
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
}

#[test]
fn wheel_is_installed_by_pip_without_rust() {
    let (directory, wheel) = pack("wheel", ".whl");
    let prefix = directory.path().join("prefix");
    let mut pip = Command::new(python());
    pip.args(["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--prefix"]);
    succeed(pip.arg(&prefix).arg(&wheel), "python3-venv");
    check_installed(&prefix, "share/zsh/site-functions/_onelock", "");
}

#[test]
fn packages_are_reproducible() {
    for (kind, ending) in [("archive", ".tar.gz"), ("deb", ".deb"), ("wheel", ".whl")] {
        let (_first, first) = pack(kind, ending);
        let (_second, second) = pack(kind, ending);
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "{kind}");
    }
}

#[test]
fn scripts_and_container_file_pass_their_linters() {
    succeed(Command::new("shellcheck").arg(packaging("install.sh")), "shellcheck");
    let hadolint = python().with_file_name("hadolint");
    succeed(Command::new(&hadolint).arg(packaging("Containerfile")), "python3-venv");
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("Containerfile");
    let text = fs::read_to_string(packaging("Containerfile")).unwrap();
    fs::write(&bad, text.replace("FROM debian:12-slim", "FROM debian")).unwrap();
    assert!(!run(Command::new(&hadolint).arg(bad), "python3-venv").status.success());
}
