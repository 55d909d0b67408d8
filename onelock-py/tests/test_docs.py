"""Runs the Python blocks of the pages about the package: each page is one session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT.parent / "docs/python.md"]
BLOCK = re.compile(r"(?:<!-- first:\n(.*?)-->\n)?```py\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_runs_as_shown(page: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    assert blocks, f"{page} has no Python"
    environment = {**os.environ, "ONELOCK_URL": f"file://{tmp_path}/locks"}
    for first, block in blocks:
        script = f"{first}\n{block}"
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=50
        )
        assert ended.returncode == 0, f"{script}\n{ended.stderr}"


def test_each_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:test|a)_\w+)`", (ROOT.parent / "docs/python.md").read_text()))
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".rs"))
    assert len(named) > 10 and not [name for name in named if f" {name}(" not in tests]


def test_every_public_name_is_on_the_page() -> None:
    import onelock

    text = (ROOT.parent / "docs/python.md").read_text()
    missing = [name for name in onelock.__all__ if name != "__version__" and f"`{name}" not in text]
    assert not missing
