//! Runs the shell and Python code of the documentation against real servers, and compares its
//! links, options, metrics and messages with the code.
//!
//! Its Rust code is compiled and run as documentation tests; see `onelock/src/pages.rs`.

mod facts;
mod links;
mod markdown;
mod protocol;
mod session;
mod site;

use std::path::{Path, PathBuf};

/// Defines one test for each page with shell code.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        $(
            #[test]
            fn $test() {
                session::run($page);
            }
        )*

        const PAGES: &[&str] = &[$($page),*];
    };
}

mod shell_runs_as_shown {
    use super::session;

    pages! {
        any_language: "docs/any-language.md",
        readme: "README.md",
        command: "onelock-cli/README.md",
        config_strings: "docs/config-strings.md",
        dynamodb: "docs/dynamodb.md",
        files: "docs/files.md",
        install: "docs/install.md",
        job_did_not_run: "docs/job-did-not-run.md",
        many_at_once: "docs/many-at-once.md",
        modes: "docs/modes.md",
        monitoring: "docs/monitoring.md",
        moving: "docs/moving.md",
        object_stores: "docs/object-stores.md",
        postgres: "docs/postgres.md",
        python: "docs/python.md",
        redis: "docs/redis.md",
        start: "docs/start.md",
    }

    #[test]
    fn every_page_with_shell_has_a_test() {
        let with_shell = |page: &String| super::page(page).blocks.iter().any(|block| block.is_run());
        let pages: Vec<_> = super::all_pages().into_iter().filter(with_shell).collect();
        let listed = |page: &String| PAGES.contains(&page.as_str()) || is_example(page);
        let missing: Vec<_> = pages.iter().filter(|page| !listed(page)).collect();
        assert!(missing.is_empty(), "pages with shell that no test runs: {missing:?}");
    }

    /// The pages of examples show programs that the examples' own tests start.
    fn is_example(page: &str) -> bool {
        page.starts_with("examples/")
    }

    #[test]
    fn shell_of_the_examples_parses() {
        super::all_pages().iter().filter(|page| is_example(page)).for_each(|page| session::parse(page));
    }
}

/// Returns the root of the project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

/// Parses the page at this path in the project.
fn page(path: &str) -> markdown::Page {
    markdown::Page::parse(&text(path))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of all Markdown files of the project, except built and hidden ones.
fn all_pages() -> Vec<String> {
    files_below(&root(), "md")
}

/// Returns the paths, from the root, of all files below `directory` with this extension.
fn files_below(directory: &Path, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the directory exists") {
        let entry = entry.expect("the entry can be read");
        let (path, name) = (entry.path(), entry.file_name().into_string().expect("our names are UTF-8"));
        if entry.file_type().expect("the entry exists").is_dir() {
            // A `target` directory may be anywhere, and contains pages of dependencies.
            if !name.starts_with('.') && !path.join("CACHEDIR.TAG").exists() {
                found.extend(files_below(&path, extension));
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path.strip_prefix(root()).expect("it is below the root").display().to_string());
        }
    }
    found.sort();
    found
}
