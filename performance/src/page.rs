//! Writes `docs/performance.md`, whose pictures are drawn from its tables.

use std::{fs, path::Path, process::Command, time::Instant};

use test_support::{dynamodb, postgres::PostgresServer, python};

use crate::{PARTS, effort::Effort, files, peers};

/// The text of the page. `{PART}` is replaced by the tables of that part. It is read when the
/// program runs, so that another text needs no build.
const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page.md.in");

pub(crate) fn write(effort: Effort) {
    // The last part needs them, and would fail after all others have run.
    files::held::most_open_files();
    // The compiler would be measured too.
    files::command::build();
    peers::build();
    let started = Instant::now();
    let template = fs::read_to_string(TEMPLATE).expect("it is part of the crate");
    let rounds = if effort.quick { "few, to try the program: these figures are no results" } else { "all" };
    let mut page = about_the_machine(template, &load()).replace("{rounds}", rounds);
    for (name, run) in PARTS {
        eprintln!("{:>4} s  {name}", started.elapsed().as_secs());
        let tables: Vec<_> = run(effort).iter().map(|table| table.markdown()).collect();
        page = page.replace(&format!("{{{name}}}\n"), &tables.join("\n"));
    }
    page = page.replace("{load-after}", &load());
    assert!(!page.contains('{'), "a part of the page was not measured: {page}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::write(docs.join("performance.md"), page).expect("the documentation can be written");
    let drawn = Command::new("python3").arg(docs.join("pictures/draw")).status();
    assert!(drawn.is_ok_and(|status| status.success()), "docs/pictures/draw failed");
    eprintln!("{:>4} s  written", started.elapsed().as_secs());
}

/// Returns the number of programs that wanted to run, as the mean of the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").expect("Linux has it");
    text.split(' ').next().expect("the first word").to_owned()
}

fn about_the_machine(template: String, load: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let python = python::python();
    let python = python.to_str().expect("a path of the build is UTF-8");
    let requirements = fs::read_to_string(python::REQUIREMENTS).expect("it is part of the crate");
    let version = |package: &str| {
        let line = requirements.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
        format!("{package} {}", line.expect("a package of the tests"))
    };
    let libraries = ["filelock", "fasteners", "redis", "python-redis-lock"].map(version).join(", ");
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    [
        ("date", said("date", &["-u", "+%F %H:%M UTC"])),
        ("commit", commit),
        ("processor", processor()),
        ("processors", processors.to_string()),
        ("kernel", said("uname", &["-sr"])),
        ("load-before", load.to_owned()),
        ("rustc", said("rustc", &["--version"])),
        ("redis", said("redis-server", &["--version"]).split(' ').nth(2).unwrap_or("?").replace("v=", "Redis ")),
        ("python", format!("{} with {libraries}", said(python, &["--version"]))),
        ("node", format!("Node {} with {}", said("node", &["--version"]), said("node", &["-p", NODE_PACKAGES]))),
        ("flock", said("flock", &["--version"])),
        (
            "postgres",
            format!("{}, DynamoDB Local {}", PostgresServer::start().sql("show server_version"), dynamodb::VERSION),
        ),
        ("rust", ["redis", "rslock", "tokio-postgres", "aws-sdk-dynamodb"].map(locked).join(", ")),
    ]
    .into_iter()
    .fold(template, |page, (name, value)| page.replace(&format!("{{{name}}}"), &value))
}

/// Prints the names and versions of the packages of Node.
const NODE_PACKAGES: &str = concat!(
    "Object.entries(require('",
    env!("CARGO_MANIFEST_DIR"),
    "/src/peers/package.json').dependencies).map(entry => entry.join(' ')).join(', ')"
);

/// Returns the name of a crate with the version that was built.
fn locked(name: &str) -> String {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).expect("it is committed");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&entry).expect("a dependency");
    format!("{name} {}", rest.split('"').next().expect("a version"))
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").expect("Linux has it");
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("an unnamed processor", |(_, name)| name).to_owned()
}

/// Returns what a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use crate::PARTS;

    const TEMPLATE: &str = include_str!("page.md.in");
    const PAGE: &str = include_str!("../../docs/performance.md");

    #[test]
    fn committed_page_has_the_text_of_the_template() {
        let mut rest = PAGE;
        for part in TEMPLATE.split('{') {
            let text = part.split_once('}').map_or(part, |(_, text)| text).trim_start_matches('\n');
            let found = rest.split_once(text);
            rest = found.unwrap_or_else(|| panic!("write the page anew, or change it back: it lacks {text:?}")).1;
        }
    }

    #[test]
    fn template_shows_every_part() {
        for (name, _) in PARTS {
            assert_eq!(TEMPLATE.matches(&format!("{{{name}}}\n")).count(), 1, "{name}");
        }
    }

    #[test]
    fn every_table_compares_onelock_with_another() {
        let tables: Vec<_> = PAGE.split("\n### ").skip(1).collect();
        assert!(tables.len() >= 20, "{} tables", tables.len());
        for table in tables {
            let names: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")).collect();
            assert!(names.iter().any(|(name, _)| name.starts_with("onelock")), "{table}");
            let shares = table.starts_with("Two processes");
            assert!(
                shares || names.iter().any(|(name, _)| !name.starts_with("onelock") && !name.starts_with('|')),
                "{table}"
            );
        }
    }
}
