"""What is required, what is tested with, and how launch.py reads both, each against the packaging library or a TOML parser."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALL = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def load_launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LAUNCH = load_launch()


def test_requirements_are_read_as_a_toml_parser_reads_them() -> None:
    assert LAUNCH.requirements("dependencies") == PROJECT["dependencies"]
    assert LAUNCH.requirements("test") == PROJECT["optional-dependencies"]["test"]


def test_missing_and_unfitting_packages_are_found() -> None:
    assert LAUNCH.missing_packages(ALL) == []
    wrong = ["pytest<2", "no-such-package-of-ours>=1"]
    assert LAUNCH.missing_packages(["pytest>=2", *wrong]) == wrong


VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(VERSIONS, st.sampled_from(["", "+cpu", ".post1"]), VERSIONS, VERSIONS)
def test_version_limits_mean_what_packaging_says(version: str, suffix: str, low: str, high: str) -> None:
    limits = f">={low},<{high}"
    expected = SpecifierSet(limits).contains(Version(version + suffix), prereleases=True)
    assert LAUNCH.fits(version + suffix, limits) == expected


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tested_versions_lie_within_the_allowed_ones(python: str) -> None:
    lines = (ROOT / "assets" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [r for r in tested if r.marker is None or r.marker.evaluate({"python_version": python, "python_full_version": f"{python}.1"})]
    pins = {r.name: str(r.specifier) for r in here}
    assert len(pins) == len(here), "a package has two versions for one Python"
    assert "==" not in pins.pop("torch")
    for requirement in map(Requirement, ALL):
        if requirement.name != "torch":
            assert requirement.specifier.contains(pins[requirement.name].removeprefix("==")), requirement


def test_only_limits_that_launch_reads_are_used() -> None:
    for requirement in map(Requirement, ALL):
        assert {limit.operator for limit in requirement.specifier} <= {">=", "<"}, requirement
        assert not requirement.marker, requirement
        assert not requirement.extras, requirement
