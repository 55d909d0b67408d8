//! The tests that `docs/verification.md` names for each promise exist.

use std::{collections::HashSet, fs, path::Path};

use integration::verification::cases;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The names of all functions in the sources of the workspace.
fn functions(directory: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

fn all_functions() -> HashSet<String> {
    let mut found = HashSet::new();
    functions(Path::new(ROOT), &mut found);
    found
}

#[test]
fn every_case_of_a_promise_exists() {
    let functions = all_functions();
    let missing: Vec<_> = cases().filter(|case| !functions.contains(*case)).collect();
    assert!(missing.is_empty(), "no test is called {missing:?}");
}
