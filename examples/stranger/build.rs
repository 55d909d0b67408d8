//! Copies the Rust examples of every README and of every page into this crate, which denies
//! warnings.
//!
//! Documentation tests hide warnings, so they do not show what a user of the example would see.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const READMES: [&str; 7] =
    ["", "lock-core/", "lock-efs/", "lock-redis/", "lock-dynamo/", "onelock/", "examples/backend/"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut modules = String::new();
    let mut count = 0;
    for file in files(&root) {
        let path = root.join(&file);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for block in rust_blocks(&text) {
            count += 1;
            let file = file.display();
            writeln!(modules, "/// From {file}.\npub mod example_{count} {{\n{}\n}}", function(&block)).unwrap();
        }
    }
    writeln!(modules, "/// How many examples there are.\npub const EXAMPLES: usize = {count};").unwrap();
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("readmes.rs"), modules).unwrap();
}

/// The READMEs, and the pages in `docs`.
fn files(root: &Path) -> Vec<PathBuf> {
    let docs = root.join("docs");
    println!("cargo::rerun-if-changed={}", docs.display());
    let entries = fs::read_dir(&docs).unwrap_or_else(|error| panic!("{}: {error}", docs.display()));
    let names = entries.map(|entry| entry.unwrap().file_name());
    let pages = names.map(|name| Path::new("docs").join(name));
    let pages = pages.filter(|page| page.extension().is_some_and(|ending| ending == "md"));
    let mut files: Vec<_> = READMES.iter().map(|folder| Path::new(folder).join("README.md")).chain(pages).collect();
    files.sort();
    files
}

fn rust_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            None if line == "```rust" || line == "```rust,no_run" => block = Some(String::new()),
            None => {}
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some(block) => {
                // Lines that rustdoc hides begin with `# `.
                let line = line.strip_prefix("# ").unwrap_or(if line == "#" { "" } else { line });
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    blocks
}

/// The block as rustdoc would compile it, but public, so that it is not dead code.
fn function(block: &str) -> String {
    if block.contains("fn main()") {
        // Private, `main` of a module would be dead code.
        return block.replacen("async fn main()", "pub async fn main()", 1).replacen(
            "\nfn main()",
            "\npub fn main()",
            1,
        );
    }
    if block.contains("Ok::<") {
        return format!("pub fn example() -> Result<(), impl std::fmt::Debug> {{\n{block}\n}}");
    }
    if block.contains("\nasync fn ") || block.starts_with("async fn ") {
        return block.replace("\nasync fn ", "\npub async fn ");
    }
    format!("pub fn example() {{\n{block}\n}}")
}
