"""The starter dataset: description -> Python function, built on this machine from packages it has. Nothing is imported or executed.

Sources are the running interpreter's standard library, the permissively licensed packages the studio itself needs, and `algorithms` 1.0.1
(MIT), fetched with pip, checked by its sha256, and read inside its wheel. Without a network the set is built without `algorithms`. The
standard library has about 500 self-contained functions with a description; packages are read in the order of PACKAGES until there are
ENOUGH, whole packages only.

Rules: studio.data.functions says what a self-contained function is. Of functions that do the same (one body) or are described the same
(one prompt), the first stays, also across packages. A row is

    prompt       "Write a Python function named `NAME`.", a blank line, the first paragraph of its docstring
    completion   the code in a ```python fence, without the docstring, with the imports, constants and functions it needs
    provenance   package, version, licence, module, line
    held_out     whether its module is held out: whole modules are, in the order of a hash of their names, until HELD_OUT of all rows

These are docstrings, written by programmers for readers of their library. They are no instructions people gave to a model, and the code
is not known to be right. The same interpreter and packages give the same file, byte for byte.

Does not know: tokens and lengths; format.py drops what is too long for a run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from studio.core.errors import DataError
from studio.core.files import write_atomic
from studio.core.paths import StudioHome
from studio.data.functions import Function, find_functions

Report = Callable[[str], None]

MIN_TRAIN, MIN_HELD_OUT = 1500, 150
ENOUGH = 1800
HELD_OUT = 0.1
FETCH_TIMEOUT_S = 90
MAX_SOURCE_BYTES = 500_000

ALGORITHMS = "algorithms"
ALGORITHMS_VERSION = "1.0.1"
ALGORITHMS_WHEEL = "algorithms-1.0.1-py3-none-any.whl"
ALGORITHMS_SHA256 = "f45568f40011b264195e7879ef42b043ea1be744479e7b3292a895edef167f64"

PACKAGES = {
    "networkx": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "huggingface_hub": "Apache-2.0",
    "datasets": "Apache-2.0",
    "transformers": "Apache-2.0",
    "torch": "BSD-3-Clause",
}
"""Packages the studio needs anyway, with their licences. Code they carry from others is left out (SKIPPED)."""

SKIPPED = frozenset(
    ("test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip", "antlr", "parsetab")
)
VENDORED = re.compile(r"_?(vendor|vendored|extern|externals|third_party|thirdparty)")


class Module(NamedTuple):
    """A module's source and where it comes from."""

    package: str
    version: str
    licence: str
    name: str
    source: str


def ensure_starter_data(home: StudioHome, report: Report) -> Path:
    """The starter dataset's file, built where it is missing; of several processes one builds it. Raises DataError."""
    from filelock import FileLock

    path = home.starter_data
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path.with_suffix(".lock"))):
        if not path.is_file():
            rows = build_rows(_sources(home, report))
            _check_size(rows)
            write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            held_out = sum(row["held_out"] for row in rows)
            report(f"Starter dataset built: {len(rows) - held_out:,} pairs to train on, {held_out:,} held out.")
    return path


def build_rows(sources: Iterable[Iterable[Module]], enough: int = ENOUGH) -> list[dict[str, Any]]:
    """Rows of the sources in turn until there are `enough`, no two alike in body or prompt, whole modules marked as held out."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for modules in sources:
        for module in modules:
            for function in find_functions(module.source):
                row = make_row(module, function)
                if function.body not in seen and row["prompt"] not in seen:
                    seen |= {function.body, row["prompt"]}
                    rows.append(row)
        if len(rows) >= enough:
            break
    held_out = _choose_modules(rows)
    return [{**row, "held_out": row["provenance"]["module"] in held_out} for row in rows]


def make_row(module: Module, function: Function) -> dict[str, Any]:
    return {
        "prompt": f"Write a Python function named `{function.name}`.\n\n{function.description}",
        "completion": f"```python\n{function.code}\n```",
        "provenance": {
            "package": module.package,
            "version": module.version,
            "licence": module.licence,
            "module": module.name,
            "line": function.line,
        },
    }


def _choose_modules(rows: list[dict[str, Any]]) -> set[str]:
    """Modules in the order of their names' hash until they hold HELD_OUT of the rows."""
    sizes: dict[str, int] = {}
    for row in rows:
        name = row["provenance"]["module"]
        sizes[name] = sizes.get(name, 0) + 1
    chosen: set[str] = set()
    total = 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if total >= HELD_OUT * len(rows):
            break
        chosen.add(name)
        total += sizes[name]
    return chosen


def _check_size(rows: list[dict[str, Any]]) -> None:
    held_out = sum(row["held_out"] for row in rows)
    if len(rows) - held_out < MIN_TRAIN or held_out < MIN_HELD_OUT:
        raise DataError(
            f"The starter dataset came out too small: {len(rows) - held_out} pairs to train on, {held_out} held out.",
            "This Python seems to lack the sources of its standard library or packages. Reinstall them, or choose a file of your own.",
        )


def _sources(home: StudioHome, report: Report) -> Iterator[Iterable[Module]]:
    report("Starter dataset: reading the standard library")
    root = Path(sysconfig.get_paths()["stdlib"])
    yield _modules_below(root, ("", "Python standard library", platform.python_version(), "PSF-2.0"))
    yield algorithms_modules(home, report)
    for package, licence in PACKAGES.items():
        place = importlib.util.find_spec(package)
        if place is not None and place.submodule_search_locations:
            report(f"Starter dataset: reading {package}")
            origin = (package, package, importlib.metadata.version(package), licence)
            yield _modules_below(Path(next(iter(place.submodule_search_locations))), origin)


def _modules_below(root: Path, origin: tuple[str, str, str, str]) -> Iterator[Module]:
    prefix, package, version, licence = origin
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).parts
        if is_skipped(parts) or not file.is_file() or file.stat().st_size > MAX_SOURCE_BYTES:
            continue
        source = file.read_text(encoding="utf-8", errors="replace")
        yield Module(package, version, licence, module_name(prefix, parts), source)


def is_skipped(parts: tuple[str, ...]) -> bool:
    """Tests, and what a package carries from somebody else."""
    return any(part in SKIPPED or part.startswith("test_") or VENDORED.fullmatch(part) for part in (*parts[:-1], parts[-1][:-3]))


def module_name(prefix: str, parts: tuple[str, ...]) -> str:
    names = [*parts[:-1], parts[-1][:-3]]
    if names[-1] == "__init__":
        names.pop()
    return ".".join(filter(None, [prefix, *names]))


def algorithms_modules(home: StudioHome, report: Report) -> Iterator[Module]:
    """The modules of the package `algorithms`, read inside its wheel; none where it cannot be fetched."""
    wheel = home.cache / ALGORITHMS_WHEEL
    if not _is_genuine(wheel):
        report(f"Starter dataset: fetching {ALGORITHMS} {ALGORITHMS_VERSION} (0.3 MB)")
        reason = _fetch(home.cache)
        if not _is_genuine(wheel):
            wheel.unlink(missing_ok=True)
            report(f"Starter dataset: going on without {ALGORITHMS}: {reason or 'the file fetched is not the one expected'}")
            return
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            parts = tuple(name.split("/"))
            if name.endswith(".py") and not is_skipped(parts):
                yield Module(ALGORITHMS, ALGORITHMS_VERSION, "MIT", module_name("", parts), archive.read(name).decode("utf-8", "replace"))


def _is_genuine(wheel: Path) -> bool:
    return wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == ALGORITHMS_SHA256


def _fetch(folder: Path) -> str:
    """Download the wheel into `folder`; what went wrong, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--dest", str(folder), f"{ALGORITHMS}=={ALGORITHMS_VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {FETCH_TIMEOUT_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else lines[-1].removeprefix("ERROR: ") if lines else "pip failed"
