"""Who may import whom, read off the syntax tree of every file; and what stays free of torch, in a real process.

Covers imports written as statements, at any depth, also those only for type checking. It does not see importlib calls.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "studio").rglob("*.py"))

MAY_IMPORT = {
    # The form shows the methods' cards, the model's shape and the plan; these, as all else the page imports, stay free of torch.
    "ui": {"jobs", "plots", "analysis", "data", "core", "methods", "models.plan", "models.comparison", "models.hardware", "models.shape"},
    # The command line starts the page, and does the rest over the same functions as the page does.
    "cli": {"ui", "jobs", "plots", "analysis", "data", "methods", "models", "core"},
    "train": {"methods", "models", "data", "core"},
    "evals": {"play", "methods", "models", "data", "core"},
    # To reproduce a run, its rows and its start are made as the training made them.
    "export": {"train", "methods", "models", "data", "core"},
    # Measured as a training measures, written as an export is: built beside, renamed when whole.
    "calibration": {"export", "train", "methods", "models", "data", "core"},
    "play": {"methods", "models", "core"},
    "analysis": {"methods", "models", "core"},
    "plots": {"core"},
    "data": {"models", "core"},
    "methods": {"core"},
    "models": {"methods", "core"},
    "jobs": {"core"},
    "core": set(),
}
"""Package -> the packages, or single modules of one, it may import besides itself. studio/__main__.py may import all."""

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets"}
"""Seconds and hundreds of megabytes each: never in the UI's process."""

ONLY_THIRD_PARTY = {"core": {"pydantic"}, "plots": {"plotly", "numpy", "pandas"}}
LIGHT = re.compile(r"studio\.(ui|core|jobs|plots)(\..+)?|studio\.methods|studio\.models\.(plan|comparison|hardware|shape)")


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] in ("__init__", "__main__") else parts)


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; `from a import b` gives a.b, for b may be a module. `package` resolves relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def breaks_a_rule(importer: str, imported: str) -> str | None:
    """Why a file of the package `importer` ("ui") may not import `imported` ("torch.nn"), or None."""
    top, *rest = imported.split(".")
    if top == "studio":
        allowed = MAY_IMPORT[importer] | {importer}
        wanted = ".".join(rest)
        if not rest or rest[0] not in MAY_IMPORT or any(wanted == name or wanted.startswith(f"{name}.") for name in allowed):
            return None
        return f"{importer} may not import {rest[0]}"
    if top == "gradio" and importer != "ui":
        return "only ui imports gradio"
    if top in HEAVY and importer in ("ui", "jobs", "plots", "core"):
        return f"{importer} never imports {top}"
    own = ONLY_THIRD_PARTY.get(importer)
    if own is not None and top not in sys.stdlib_module_names | own:
        return f"{importer} imports only {', '.join(sorted(own))} besides the standard library"
    return None


def package_of(path: Path) -> str | None:
    """The package in studio/ that a file belongs to; None for the files directly in studio/."""
    parts = path.relative_to(ROOT / "studio").parts
    return parts[0] if len(parts) > 1 else None


@pytest.mark.parametrize(
    ("importer", "imported", "why"),
    [
        ("ui", "torch.nn", "ui never imports torch"),
        ("ui", "studio.train.run", "ui may not import train"),
        ("ui", "studio.models.load.load", "ui may not import models"),
        ("ui", "studio.models.plan.plan_run", None),
        ("plots", "gradio", "only ui imports gradio"),
        ("plots", "plotly.graph_objects", None),
        ("core", "numpy", "core imports only pydantic besides the standard library"),
        ("core", "os.path", None),
        ("jobs", "studio.train", "jobs may not import train"),
        ("train", "transformers.Trainer", None),
        ("train", "studio.core.errors.StudioError", None),
        ("models", "studio.__version__", None),
    ],
)
def test_the_rules_are_read_as_they_are_meant(importer: str, imported: str, why: str | None) -> None:
    assert breaks_a_rule(importer, imported) == why


def test_every_form_of_import_is_seen() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from ..g import h\n    from . import i\n"
    assert list(imported_modules(source, "studio.ui")) == [(1, "a.b"), (2, "d.e"), (4, "studio.g.h"), (5, "studio.ui.i")]


def test_every_package_has_its_rule() -> None:
    assert {package for package in map(package_of, FILES) if package} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", [path for path in FILES if package_of(path)], ids=module_name)
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    importer = package_of(path)
    assert importer
    package = module_name(path if path.name == "__init__.py" else path.parent / "__init__.py")
    found = imported_modules(path.read_text(encoding="utf-8"), package)
    broken = [f"line {line}: {imported}: {why}" for line, imported in found if (why := breaks_a_rule(importer, imported))]
    assert not broken, "\n".join([str(path.relative_to(ROOT)), *broken])


def test_launch_needs_only_the_standard_library() -> None:
    found = imported_modules((ROOT / "launch.py").read_text(encoding="utf-8"), "")
    assert {name.split(".")[0] for _, name in found} <= sys.stdlib_module_names


def test_every_package_that_is_imported_is_required() -> None:
    """A package that only comes along with another may stay away one day."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    required = {normal(name) for name in re.findall(r'^\s*"([\w.-]+)', block.group(1), re.MULTILINE)}
    distributions = metadata.packages_distributions()
    imports = [(path, *found) for path in FILES for found in imported_modules(path.read_text(encoding="utf-8"), module_name(path))]
    missing = set()
    for path, line, name in imports:
        top = name.split(".")[0]
        own = top in sys.stdlib_module_names or top == "studio"
        if not own and not required & {normal(provider) for provider in distributions.get(top, [top])}:
            missing.add(f"{path.relative_to(ROOT)}:{line} imports {top}")
    assert not missing, "pyproject.toml does not require what " + ", ".join(sorted(missing))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# What stays light


def light_modules() -> list[str]:
    names = {module_name(path) for path in FILES if path.name != "__main__.py"}
    return sorted(name for name in names if LIGHT.fullmatch(name))


@pytest.fixture(scope="session")
def heavy_packages_of() -> dict[str, list[str]]:
    """Module -> heavy packages that its import brought, from one process that imports them all in turn."""
    script = (
        "import importlib, json, sys\n"
        "names, heavy = json.loads(sys.argv[1])\n"
        "brought, seen = {}, set()\n"
        "for name in names:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        loaded = set(heavy) & set(sys.modules)\n"
        "        brought[name], seen = sorted(loaded - seen), loaded\n"
        "    except ImportError as error:\n"
        "        brought[name] = [f'cannot be imported: {error}']\n"
        "print(json.dumps(brought))\n"
    )
    question = json.dumps([light_modules(), sorted(HEAVY)])
    done = subprocess.run([sys.executable, "-c", script, question], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", light_modules())
def test_a_light_module_leaves_torch_and_its_kind_alone(name: str, heavy_packages_of: dict[str, list[str]]) -> None:
    assert heavy_packages_of[name] == []
