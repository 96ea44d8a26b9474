"""The register, and the promise that counting and describing methods needs no torch."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    "settings",
    [
        {"family": "lora", "rank": 4, "targets": "attention", "layers": [1]},
        {"family": "lora", "dora": True},
        {"family": "qlora"},
        {"family": "adapter", "placement": "houlsby"},
        {"family": "adapter", "placement": "parallel", "reduction_factor": 4},
        {"family": "prefix"},
        {"family": "prefix", "projection": True},
    ],
    ids=str,
)
def test_cards_add_up_and_travel_as_json(settings, make_spec, tiny_shape):
    spec = make_spec(**settings)
    card = get_method(spec.method.family).describe(spec.method, tiny_shape)
    assert card.layers * sum(part.parameters for part in card.parts) == card.parameters
    assert card.adapter_bytes == 4 * card.parameters
    data = json.loads(json.dumps(card.to_json()))
    assert data["parameters"] == card.parameters
    words = [data[name] for name in ("title", "sentence", "formula", "added", "good_for", "architecture_change", "merges", "source")]
    assert all(words)
