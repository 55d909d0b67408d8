"""The rules. Each is a function that yields (path, line, what) for each place that breaks it."""

import re
from pathlib import Path

WIDTH = 100
TEST_NAME = 60
SUBJECT = 72
FUNCTION = 70
# The commit before the first one that has to keep to the rule of subjects.
MARKER = "099aa39"
# What was released under the old name of the project, and the page for those who come from it.
OLD_NAME_ALLOWED = ("CHANGELOG.md", "docs/moving.md")
# These files spell what they forbid.
OWN = "checks/"

# In two parts, so that this line is not found itself.
OLD_NAME = re.compile(r"(?<![a-z])d" "lock", re.I)
MACHINE = re.compile(r"(?<![\w.~:/-])/(?:work|farm)/")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME)\b|\bdbg!")
DIALECT = re.compile(
    r"\b(?:whoever|nobody|somebody|everybody|(?:is|was|be)\s+had|lest|all\s+the\s+same|in\s+vain"
    r"|for\s+ever)\b",
    re.I,
)
SENTENCE = re.compile(r"[.!?][\"')*_\]]*\s+(?=[\"'(*_\[`]*[A-Z`])")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|resp)\.\s")
UNPUBLISHED = re.compile(r"(?m)^publish = false")
MANIFEST = (
    "repository",
    "homepage",
    "documentation",
    "keywords",
    "categories",
    "[package.metadata.docs.rs]",
)
LICENCES = ("LICENSE-MIT", "LICENSE-APACHE")
BLOB = re.compile(r"https://github\.com/[\w-]+/[\w-]+/(?:blob|tree)/main/([^#?]+)")
LINK = re.compile(r"\]\(([^()\s]+)[^()]*\)|^\[[^\]]+\]:\s*(\S+)", re.M)


def comment_width(tree):
    """Lines of Rust with a comment or documentation that end beyond column 100.

    Counted in characters, code before a comment included. Exempt: rows of tables (`|` first), and
    lines whose comment is one word without a space, or a link definition, such as a long URL.
    """
    for path, rust in tree.rust.items():
        for number in sorted({number for number, _ in rust.comments}):
            line = rust.lines[number - 1] if number <= len(rust.lines) else ""
            if len(line) > WIDTH and not may_be_wide(line):
                yield path, number, f"{len(line)} characters: {line.strip()}"


def may_be_wide(line):
    comment = re.sub(r"^\s*(?://[/!]?|/?\*+[/!]?)\s*", "", line)
    return comment.startswith("|") or re.fullmatch(r"(?:\[[^\]]+\]:\s*)?\S+", comment)


def markdown_width(tree):
    """Lines of Markdown beyond 100 characters that hold more than one sentence.

    Exempt: tables, code blocks, HTML comments, link definitions. A sentence ends with `.`, `!` or
    `?` before a space and a capital letter or code.
    """
    for path in tree.markdown:
        for number, line in prose(tree.text(path)):
            plain = ABBREVIATION.sub("", re.sub(r"`[^`]*`", "`", line))
            table = line.lstrip().startswith("|")
            if len(line) > WIDTH and not table and SENTENCE.search(plain):
                yield path, number, f"{len(line)} characters: {line.strip()}"


def prose(text):
    """The lines outside of code blocks, HTML comments and link definitions, with their numbers."""
    fence, comment = None, False
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence:
            fence = None if mark and mark[1].startswith(fence) else fence
        elif comment or line.lstrip().startswith("<!--"):
            comment = "-->" not in line
        elif mark:
            fence = mark[1]
        elif not re.match(r"\s*\[[^\]]+\]:\s", line):
            yield number, line


def old_name(tree):
    """The project's old name, outside of CHANGELOG.md and docs/moving.md."""
    return search(tree, OLD_NAME, but=OLD_NAME_ALLOWED)


def machine_paths(tree):
    """Paths of one machine, such as that of a checkout."""
    return search(tree, MACHINE)


def unfinished(tree):
    """TODO, FIXME and dbg!."""
    return search(tree, UNFINISHED)


def search(tree, pattern, but=()):
    for path in tree.texts:
        if path.startswith(OWN) or path in but:
            continue
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if pattern.search(line):
                yield path, number, line.strip()


def dialect(tree):
    """Words in comments, strings and Markdown that hide the actor or are bookish.

    They are: whoever, nobody, somebody, everybody, is/was/be had, lest, all the same, in vain,
    for ever. Say which client or process, "acquired", "anyway", "forever".
    """
    for path, rust in tree.rust.items():
        for number, text in sorted(rust.comments + rust.strings):
            for match in DIALECT.finditer(text):
                yield path, number, f"{match[0]!r}: {text.strip()}"
    for path in tree.markdown:
        for number, line in prose(tree.text(path)):
            for match in DIALECT.finditer(line):
                yield path, number, f"{match[0]!r}: {line.strip()}"


def test_names(tree):
    """Names of functions, which tests are, over 60 characters."""
    for path, rust in tree.rust.items():
        for name, number, _, _ in rust.functions:
            if len(name) > TEST_NAME:
                yield path, number, f"{len(name)} characters: {name}"


def function_length(tree):
    """Functions over 70 lines, from `fn` to the closing brace, outside of tests."""
    for path, rust in tree.rust.items():
        if in_tests(path):
            continue
        for name, number, lines, is_test in rust.functions:
            if lines > FUNCTION and not is_test:
                yield path, number, f"{name} has {lines} lines"


def in_tests(path):
    return "tests" in Path(path).parts or Path(path).stem.endswith("tests")


def metadata(tree):
    """What crates.io and docs.rs show of a crate that is published, and its licences.

    In the manifest: repository, homepage, documentation, keywords, categories, and
    [package.metadata.docs.rs]. In the folder: LICENSE-MIT and LICENSE-APACHE, as links.
    """
    for crate in published(tree):
        path = f"{crate}/Cargo.toml"
        manifest = tree.text(path)
        for key in MANIFEST:
            if not re.search(rf"(?m)^{re.escape(key)}", manifest):
                yield path, 0, f"has no {key}"
        for licence in LICENCES:
            if f"{crate}/{licence}" not in tree.paths:
                yield path, 0, f"has no {licence} beside it: ln -s ../{licence} {crate}/"


def published(tree):
    manifests = {crate: tree.text(f"{crate}/Cargo.toml") for crate in tree.crates}
    return [crate for crate, text in manifests.items() if not UNPUBLISHED.search(text)]


def links(tree):
    """Links that are dead where the page is read.

    A README that is a crate's documentation has no relative link, which docs.rs cannot follow:
    write https://docs.rs/CRATE/... or the blob URL of the repository. Links to items (`::`) and to
    headings of the same page (`#`) are fine. A blob URL, on any page, names a file that exists.
    """
    on_docs_rs = {f"{crate}/README.md" for crate in published(tree)}
    for path in tree.markdown:
        for number, line in prose_and_definitions(tree.text(path)):
            for match in LINK.finditer(re.sub(r"`[^`]*`", "code", line)):
                target = match[1] or match[2]
                relative = not re.match(r"https?://|mailto:|#", target)
                if relative and path in on_docs_rs and re.search(r"[/.]", target):
                    yield path, number, f"relative: {target}"
                blob = BLOB.match(target)
                if blob and not (tree.root / blob[1]).exists():
                    yield path, number, f"no such file: {target}"


def prose_and_definitions(text):
    kept = dict(prose(text))
    for number, line in enumerate(text.splitlines(), 1):
        if number in kept or re.match(r"\s*\[[^\]]+\]:\s", line):
            yield number, line


def subjects(tree):
    """Subjects of commits over 72 characters, of the last 50 since the renovation began.

    Merges are left out. The rule counts from the commit after 099aa39.
    """
    known = tree.git("cat-file", "-e", MARKER + "^{commit}") is not None
    since = [f"{MARKER}..HEAD"] if known else ["HEAD"]
    log = tree.git("log", "--no-merges", "--max-count=50", "--format=%h %s", *since) or ""
    for line in log.splitlines():
        commit, _, subject = line.partition(" ")
        if len(subject) > SUBJECT:
            yield commit, 0, f"{len(subject)} characters: {subject}"


RULES = {
    "comment-width": comment_width,
    "markdown-width": markdown_width,
    "old-name": old_name,
    "machine-paths": machine_paths,
    "unfinished": unfinished,
    "dialect": dialect,
    "test-names": test_names,
    "function-length": function_length,
    "metadata": metadata,
    "links": links,
    "commit-subjects": subjects,
}
