"""The file tree of README.md is true: each line names something that exists, and nothing at the top or in studio/ is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEADING = "Where things are"


def read_tree(text: str) -> dict[str, str]:
    """Path -> phrase of the fenced block under the heading. Levels are indents, drawn or not."""
    block = re.search(rf"^#+ {HEADING}\n.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, f'README.md has no fenced block under the heading "{HEADING}".'
    tree, parents = {}, []
    for line in block.group(1).splitlines():
        plain = re.sub(r"[│├└─]", " ", line)
        if not plain.strip():
            continue
        name, _, phrase = plain.strip().partition("  ")
        indent = len(plain) - len(plain.lstrip())
        parents = [parent for parent in parents if parent[0] < indent]
        path = "".join([parent[1] for parent in parents]) + name
        if name.endswith("/"):
            parents.append((indent, name))
        tree[path] = phrase.strip()
    return tree


PLAIN = """
launch.py     starts it
studio/       the code
  core/       specs
    spec.py   the spec
  ui/         the page
tests/        the tests
"""
DRAWN = """
├── launch.py       starts it
├── studio/         the code
│   ├── core/       specs
│   │   └── spec.py  the spec
│   └── ui/         the page
└── tests/          the tests
"""


@pytest.mark.parametrize("lines", [PLAIN, DRAWN], ids=["plain", "drawn"])
def test_a_tree_is_read_with_its_levels(lines: str) -> None:
    assert read_tree(f"# Title\n```\nother\n```\n## {HEADING}\nWords.\n```text{lines}```\n") == {
        "launch.py": "starts it",
        "studio/": "the code",
        "studio/core/": "specs",
        "studio/core/spec.py": "the spec",
        "studio/ui/": "the page",
        "tests/": "the tests",
    }


@pytest.fixture(scope="module")
def tree() -> dict[str, str]:
    return read_tree((ROOT / "README.md").read_text(encoding="utf-8"))


def test_all_that_is_named_exists_and_has_a_phrase(tree: dict[str, str]) -> None:
    for path, phrase in tree.items():
        there = ROOT / path
        assert there.is_dir() if path.endswith("/") else there.is_file(), f"README.md names {path}, which is not there"
        assert phrase, f"README.md says nothing about {path}"


def test_nothing_is_left_out(tree: dict[str, str]) -> None:
    packages = [path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / "studio").glob("*/__init__.py")]
    top = ["studio/", "assets/", "tests/", "docs/", "launch.py", "pyproject.toml"]
    missing = [path for path in [*top, *packages] if path not in tree]
    assert not missing, f"README.md's tree leaves out {', '.join(missing)}"
