"""The modules of a crate, and the circles in which they import each other."""

import re
from functools import cached_property
from pathlib import Path

USE = re.compile(r"(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);")
PATH = re.compile(r"(?<![\w$:])(?:crate|super|self)(?:::\w+)+")
ITEM = r"\b(?:struct|enum|union|trait|fn|type|const|static|mod|macro_rules!)\s+{}\b"
# A chain of re-exports longer than this would be a circle of its own.
DEEPEST = 10


class Modules:
    """The files below a crate's `src`, each a module.

    An import is a path that begins with `crate`, `super`, `self` or a child's name, in `use` or
    elsewhere, in code that is not only for tests. It counts for the file that defines the item: a
    re-export (`pub use`) is looked through, and is no import itself. Modules inside a file count as
    the file. What macros write is not seen.
    """

    def __init__(self, tree, crate):
        source = crate + "/src/"
        self.files = {}
        for path, rust in tree.rust.items():
            module = self._name(path.removeprefix(source)) if path.startswith(source) else None
            if module is not None:
                self.files[module] = rust.without_tests
        self._bindings = {module: self._bind(module) for module in self.files}

    @staticmethod
    def _name(path):
        parts = list(Path(path).with_suffix("").parts)
        if parts == ["main"] or parts[0] == "bin" or parts[-1].endswith("tests"):
            # Programs beside a library, which import it as others do, and modules of tests.
            return () if parts == ["main"] else None
        return tuple(parts[:-1] if parts[-1] in ("lib", "mod") else parts)

    def _bind(self, module):
        """What the names in a module stand for: name -> path; and the paths of glob imports."""
        names, globs = {}, []
        for match in USE.finditer(self.files[module]):
            for path, alias in expand(match[2]):
                absolute = self._absolute(module, path)
                if absolute and path[-1] == "*":
                    globs.append(absolute[:-1])
                elif absolute:
                    names[alias] = absolute
        return names, globs

    def _absolute(self, module, path):
        """The path from the crate's root; None for one into another crate."""
        if path[0] == "crate":
            return path[1:]
        if module + (path[0],) in self.files:
            return module + path
        if path[0] not in ("self", "super"):
            return None
        base = module
        while path and path[0] in ("self", "super"):
            base = base[:-1] if path[0] == "super" else base
            path = path[1:]
        return base + path

    def _definer(self, path, depth=0):
        """The file that defines what an absolute path names."""
        module = ()
        while path and module + path[:1] in self.files:
            module, path = module + path[:1], path[1:]
        if not path or depth > DEEPEST:
            return module
        names, globs = self._bindings[module]
        if path[0] in names and names[path[0]] != module + path[:1]:
            return self._definer(names[path[0]] + path[1:], depth + 1)
        if not re.search(ITEM.format(re.escape(path[0])), self.files[module]):
            for glob in globs:
                target = self._definer(glob, depth + 1)
                if re.search(ITEM.format(re.escape(path[0])), self.files[target]):
                    return target
        return module

    @cached_property
    def imports(self):
        """The other files that each file imports."""
        found = {}
        for module, code in self.files.items():
            paths = [p for use in USE.finditer(code) if not use[1] for p, _ in expand(use[2])]
            rest = USE.sub("", code)
            paths += [tuple(match[0].split("::")) for match in PATH.finditer(rest)]
            absolute = [self._absolute(module, path) for path in paths]
            targets = {self._definer(tuple(p for p in path if p != "*")) for path in absolute if path}
            found[module] = targets & self.files.keys() - {module}
        return found

    def circles(self):
        """The sizes of the circles of files, largest first."""
        return sizes(self.imports)

    def circles_of_units(self):
        """The sizes of the circles of the modules at the root, each with all that is below it."""
        units = {}
        for module, targets in self.imports.items():
            if module:
                below = {target[:1] for target in targets if target}
                units.setdefault(module[:1], set()).update(below - {module[:1]})
        return sizes(units)


def expand(use):
    """The paths of a `use` with the names that they get: `a::{b, c as d}` has two."""
    use = use.strip()
    if brace := re.match(r"((?:\w+::)*)\{(.*)\}$", use, re.S):
        prefix = tuple(brace[1].split("::")[:-1])
        for part in split(brace[2]):
            for path, alias in expand(part):
                if path == ("self",):
                    yield prefix, prefix[-1] if alias == "self" else alias
                else:
                    yield prefix + path, alias
        return
    path, _, alias = use.partition(" as ")
    parts = tuple(part.strip() for part in path.removeprefix("::").split("::") if part.strip())
    if parts:
        yield parts, alias.strip() or parts[-1]


def split(text):
    """The parts between the commas that are in no braces."""
    part, depth = "", 0
    for mark in text + ",":
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if mark == "," and depth == 0:
            if part.strip():
                yield part
            part = ""
        else:
            part += mark


def sizes(graph):
    """The sizes of the strongly connected components of more than one node."""
    reached = {node: reachable(graph, node) for node in graph}
    circles = {
        frozenset({node} | {other for other in reached[node] if node in reached.get(other, ())})
        for node in graph
    }
    return sorted((len(circle) for circle in circles if len(circle) > 1), reverse=True)


def reachable(graph, start):
    seen, waiting = set(), [start]
    while waiting:
        for node in graph.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen
