"""The numbers of the tree, for a look before and after."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import rules
from modules import Modules

LONG_FILE = 400
LINUX = "x86_64-unknown-linux-gnu"


def show(tree, against, tests):
    rows = dict(numbers(tree, tests))
    if against is None:
        print_table([(label, [value]) for label, value in rows.items()])
        return 0
    before = read(against)
    labels = [*before, *(label for label in rows if label not in before)]
    print_table([(label, [before.get(label, "-"), rows.get(label, "-")]) for label in labels])
    return 0


def print_table(rows):
    width = max(len(label) for label, _ in rows)
    for label, values in rows:
        print(f"{label:{width}}" + "".join(f"  {value!s:>9}" for value in values))


def read(path):
    """The rows of a table with one column that this printed."""
    lines = Path(path).read_text().splitlines()
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if line.strip())


def numbers(tree, tests):
    yield "modules at the root of lock-core", len(modules_at_root(tree, "lock-core"))
    yield from circles(tree)
    sources = {path: rust for path, rust in tree.rust.items() if not rules.in_tests(path)}
    yield f"files of Rust over {LONG_FILE} lines", long_files(tree.rust)
    yield f"files over {LONG_FILE} lines, without tests", long_files(sources)
    for name, rule in rules.RULES.items():
        if name != "commit-subjects":
            yield f"exceptions to {name}", sum(1 for _ in rule(tree))
    packages = metadata(tree)
    kinds = [kind for p in packages for target in p["targets"] for kind in target["kind"]]
    yield "test binaries, without unit tests", kinds.count("test")
    yield from compiled(tree)
    yield from lines(tree)
    if tests:
        yield "tests", count_tests(tree)


def modules_at_root(tree, crate):
    return re.findall(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+", root_code(tree, crate))


def root_code(tree, crate):
    rust = tree.rust.get(f"{crate}/src/lib.rs")
    return rust.without_tests if rust else ""


def circles(tree):
    for crate in tree.crates:
        modules = Modules(tree, crate)
        if modules.files:
            yield f"circles of files, {crate}", added(modules.circles())
            yield f"circles of root modules, {crate}", added(modules.circles_of_units())


def added(sizes):
    """The sizes of circles: `4+2` is one of four files and one of two."""
    return "+".join(map(str, sizes)) or "none"


def long_files(files):
    return sum(1 for rust in files.values() if len(rust.lines) > LONG_FILE)


def cargo(tree, *arguments):
    environment = os.environ | {"CARGO_TERM_COLOR": "never"}
    command = ["cargo", *arguments]
    done = subprocess.run(command, cwd=tree.root, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"checks/house: {' '.join(command)} failed")
    return done.stdout


def metadata(tree):
    printed = cargo(tree, "metadata", "--no-deps", "--locked", "--format-version", "1")
    return json.loads(printed)["packages"]


def compiled(tree):
    """How many crates a program that uses the library compiles on Linux, the library included."""
    tree_of = ["tree", "-p", "onelock", "-e", "normal", "--prefix", "none", "--target", LINUX, "--locked"]
    for label, features in (
        ("with default features", []),
        ("with files alone", ["--no-default-features", "--features", "files"]),
    ):
        printed = cargo(tree, *tree_of, *features)
        crates = {tuple(line.split()[:2]) for line in printed.splitlines() if line.strip()}
        yield f"crates compiled for the library {label}", len(crates)


def lines(tree):
    total = 0
    for crate in tree.crates:
        own = {p: r for p, r in tree.rust.items() if tree.crate_of(p) == crate}
        parts = {}
        for path, rust in own.items():
            part = path.removeprefix(crate + "/").split("/")[0]
            part = part if part in ("src", "tests") else "other"
            parts[part] = parts.get(part, 0) + len(rust.lines)
        for part in sorted(parts, key=["src", "tests", "other"].index):
            yield f"lines of Rust, {crate}, {part}", parts[part]
        total += sum(parts.values())
    yield "lines of Rust", total
    yield "lines of Markdown", sum(len(tree.text(p).splitlines()) for p in tree.markdown)


def count_tests(tree):
    arguments = ["nextest", "list", "--workspace", "--all-features", "--locked"]
    printed = cargo(tree, *arguments, "--message-format", "json")
    return json.loads(printed)["test-count"]
