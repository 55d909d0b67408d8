"""The files of the tree, and what a Rust file consists of: code, comments, strings, functions."""

import bisect
import re
import subprocess
from functools import cached_property
from pathlib import Path

# The ends of names that are no text of ours.
BINARY = (".lock", ".png", ".svg", ".gz")


class Tree:
    """A work tree of git, or an unpacked archive."""

    def __init__(self, root):
        self.root = Path(root).resolve()

    def git(self, *arguments):
        """What git prints, or None where git or its data are missing."""
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout

    @cached_property
    def paths(self):
        """The paths of all files that git knows or would add, relative to the root."""
        listed = self.git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        if listed is not None:
            paths = [path for path in listed.split("\0") if path]
        else:
            files = (p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file())
            paths = [str(p) for p in files if not {"target", ".git"} & set(p.parts)]
        return sorted({path for path in paths if (self.root / path).is_file()})

    @cached_property
    def crates(self):
        """The folders that have a manifest with a package, relative to the root."""
        manifests = [path for path in self.paths if Path(path).name == "Cargo.toml"]
        packages = [p for p in manifests if re.search(r"(?m)^\[package\]", self.text(p))]
        return sorted(str(Path(path).parent) for path in packages)

    def crate_of(self, path):
        """The innermost crate that a file belongs to, or `docs` where it belongs to none."""
        inside = [crate for crate in self.crates if path.startswith(crate + "/")]
        return max(inside, key=len, default="docs")

    def text(self, path):
        """The text of a file; empty for one that is not UTF-8."""
        try:
            return (self.root / path).read_bytes().decode()
        except UnicodeDecodeError:
            return ""

    @cached_property
    def texts(self):
        """The paths of what people wrote: no corpus of the fuzzer, no lock file of cargo."""
        return [p for p in self.paths if not p.endswith(BINARY) and "/corpus/" not in p]

    @cached_property
    def markdown(self):
        return [path for path in self.paths if path.endswith(".md")]

    @cached_property
    def rust(self):
        """The Rust files by path."""
        return {path: Rust(self.text(path)) for path in self.paths if path.endswith(".rs")}


# How comments, strings and characters begin. A lifetime has no closing quote.
TOKEN = re.compile(
    r"""(?P<line>//[^\n]*)
      | (?P<block>/\*)
      | (?P<raw>\b(?:b|c)?r(?P<hashes>\#*)")
      | (?P<string>")
      | (?P<char>b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^\\'\n])')
    """,
    re.X,
)
FUNCTION = re.compile(r"\bfn\s+(\w+)")
TEST_ATTRIBUTE = re.compile(r"#\[(?:[\w:]+::)?(?:test|bench)\b[^\n]*\]|#\[cfg\(test\)\]")


class Rust:
    """A Rust file, taken apart."""

    def __init__(self, text):
        self.text = text
        self.lines = text.splitlines()
        self._starts = [0]
        for match in re.finditer("\n", text):
            self._starts.append(match.end())
        # (line, text) of each line of a comment, and of each string.
        self.comments, self.strings = [], []
        # The same text with comments and the insides of strings blanked.
        self.code = self._take_apart()

    def line_at(self, offset):
        return bisect.bisect_right(self._starts, offset)

    def _take_apart(self):
        text, code, at = self.text, [], 0
        while match := TOKEN.search(text, at):
            start, end = match.span()
            kind = match.lastgroup if match.lastgroup != "hashes" else "raw"
            if kind == "block":
                end = self._end_of_block(end)
            elif kind == "raw":
                close = text.find('"' + match["hashes"], end)
                end = len(text) if close < 0 else close + 1 + len(match["hashes"])
            elif kind == "string":
                end = self._end_of_string(end)
            piece = text[start:end]
            found = {"line": self.comments, "block": self.comments, "char": None}.get(
                kind, self.strings
            )
            if found is not None:
                first = self.line_at(start)
                found.extend((first + n, line) for n, line in enumerate(piece.split("\n")))
            code.append(text[at:start])
            code.append(re.sub(r"[^\n]", " ", piece))
            at = end
        code.append(text[at:])
        return "".join(code)

    def _end_of_block(self, at):
        depth = 1
        for match in re.compile(r"/\*|\*/").finditer(self.text, at):
            depth += 1 if match[0] == "/*" else -1
            if depth == 0:
                return match.end()
        return len(self.text)

    def _end_of_string(self, at):
        match = re.compile(r'(?:[^"\\]|\\.)*"', re.S).match(self.text, at)
        return match.end() if match else len(self.text)

    def _body(self, at):
        """The offsets of the braces of the item that begins here; None for one without a body."""
        depth = 0
        for match in re.compile(r"[{}();\[\]]").finditer(self.code, at):
            mark = match[0]
            if mark == ";" and depth == 0:
                return None
            if mark == "{" and depth == 0:
                return match.start(), self._closing(match.start())
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(mark, 0)
        return None

    def _closing(self, at):
        depth = 0
        for match in re.compile(r"[{}]").finditer(self.code, at):
            depth += 1 if match[0] == "{" else -1
            if depth == 0:
                return match.end()
        return len(self.code)

    @cached_property
    def test_spans(self):
        """The offsets of items that only tests compile: `#[test]`, `#[cfg(test)]`."""
        spans = []
        for match in TEST_ATTRIBUTE.finditer(self.code):
            if body := self._body(match.end()):
                spans.append((match.start(), body[1]))
        return spans

    def is_test(self, offset):
        return any(start <= offset < end for start, end in self.test_spans)

    @cached_property
    def functions(self):
        """(name, first line, number of lines, whether it is a test) of each function."""
        found = []
        for match in FUNCTION.finditer(self.code):
            first = self.line_at(match.start())
            body = self._body(match.end())
            last = self.line_at(body[1] - 1) if body else first
            found.append((match[1], first, last - first + 1, self.is_test(match.start())))
        return found

    @cached_property
    def without_tests(self):
        """The code, with what only tests compile blanked."""
        code = self.code
        for start, end in self.test_spans:
            code = code[:start] + re.sub(r"[^\n]", " ", code[start:end]) + code[end:]
        return code
