//! Gathers the tests that carry a key of the page from the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// The names of the tests under each key.
#[derive(Debug, Default)]
pub struct Cases(BTreeMap<String, BTreeSet<String>>);

impl Cases {
    /// Gathers the markers of all Rust files of the workspace, and compares their keys with those
    /// of the page.
    ///
    /// # Errors
    /// If a marker is not above a function or has an unknown key, or a key has no test. The error
    /// lists all of them.
    pub fn gather<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut cases = Self(keys.into_iter().map(|key| (key.to_owned(), BTreeSet::new())).collect());
        let mut wrong = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        cases.add_directory(&root, &mut wrong).map_err(|error| format!("{}: {error}", root.display()))?;
        wrong.extend(cases.empty().map(|key| format!("no test verifies {key}")));
        if wrong.is_empty() { Ok(cases) } else { Err(wrong.join("\n")) }
    }

    /// Returns the tests under `key`.
    pub fn of(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Returns all tests, each once.
    pub fn all(&self) -> BTreeSet<&str> {
        self.0.values().flatten().map(String::as_str).collect()
    }

    /// Returns the filter with which `cargo nextest run` runs all of them.
    pub fn filter(&self) -> String {
        let names = self.all().into_iter().collect::<Vec<_>>().join("|");
        // A case of the conformance suite may be in a module of its backend.
        format!("test(/^(.*::)?({names})$/)")
    }

    fn empty(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, names)| names.is_empty()).map(|(key, _)| key.as_str())
    }

    fn add_directory(&mut self, directory: &Path, wrong: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            // The target directory may have any name.
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !hidden && !path.join("CACHEDIR.TAG").exists() {
                self.add_directory(&path, wrong)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let found = self.add_text(&fs::read_to_string(&path)?);
                wrong.extend(found.into_iter().map(|what| format!("{}:{what}", path.display())));
            }
        }
        Ok(())
    }

    /// Adds the tests of one file. Returns the errors of its markers, each after its line.
    fn add_text(&mut self, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((line, text)) = lines.next() {
            let Some(keys) = marker(text) else { continue };
            let Some(name) = lines.peek().and_then(|(_, below)| function(below)) else {
                wrong.push(format!("{}: the marker is not above a function", line + 1));
                continue;
            };
            for key in keys.split(',').map(str::trim) {
                match self.0.get_mut(key) {
                    Some(names) => drop(names.insert(name.to_owned())),
                    None => wrong.push(format!("{}: the page has no row {key:?}", line + 1)),
                }
            }
        }
        wrong
    }
}

/// Returns the keys of a comment `// verifies: P1, contention`.
fn marker(line: &str) -> Option<&str> {
    let comment = line.trim_start().strip_prefix("//")?;
    comment.trim_start_matches('/').trim_start().strip_prefix("verifies:")
}

/// Returns the name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let (_, name) = line.split_once("fn ")?;
    name.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> (Cases, Vec<String>) {
        let mut cases = Cases(["P1", "P2"].map(|key| (key.to_owned(), BTreeSet::new())).into());
        let wrong = cases.add_text(text);
        (cases, wrong)
    }

    #[test]
    fn a_marker_names_the_function_below_it() {
        let (cases, wrong) =
            add("#[test]\n// verifies: P1, P2\nfn one() {}\n    // verifies: P1\n    async fn two<T>() {}");
        assert_eq!(wrong, [""; 0]);
        assert_eq!((cases.of("P1").collect::<Vec<_>>(), cases.of("P2").collect()), (vec!["one", "two"], vec!["one"]));
        assert_eq!(cases.filter(), "test(/^(.*::)?(one|two)$/)");
    }

    #[test]
    fn misplaced_markers_unknown_keys_and_keys_without_test_fail() {
        let (cases, wrong) = add("// verifies: P1\n#[test]\nfn one() {}\n// verifies: P3\nfn two() {}");
        assert_eq!(wrong, ["1: the marker is not above a function", "4: the page has no row \"P3\""]);
        assert_eq!(cases.empty().collect::<Vec<_>>(), ["P1", "P2"]);
    }
}
