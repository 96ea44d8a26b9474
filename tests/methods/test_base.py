"""The register, and the promise that counting and describing methods needs no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from studio.core.errors import MethodError
from studio.core.spec import Family
from studio.methods import all_methods, get_method
from studio.methods.base import register


def test_every_family_of_the_spec_has_its_method():
    assert [method.family for method in all_methods()] == list(get_args(Family))
    assert all(get_method(method.family) is method for method in all_methods())


def test_an_unknown_family_is_named():
    with pytest.raises(MethodError, match="ia3"):
        get_method("ia3")


@pytest.mark.parametrize(("family", "title"), [("lora", "Another"), ("another", "LoRA")])
def test_clashes_are_rejected(family, title):
    class Clash:
        pass

    clash = Clash()
    clash.family, clash.title = family, title
    with pytest.raises(ValueError, match="clashes"):
        register(clash)
    assert len(all_methods()) == len(get_args(Family))


def test_methods_and_adapters_import_without_torch():
    code = "import sys, studio.methods, studio.methods.adapters; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
