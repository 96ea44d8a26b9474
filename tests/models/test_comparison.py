from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.methods import get_method
from studio.models.comparison import compare_families
from studio.models.hardware import Hardware
from studio.models.plan import make_plan
from studio.models.shape import find_shape

MACHINE = Hardware("cpu", "A CPU", 24 * 10**9, 24 * 10**9, True, 2, "As the test says.")
MODELS = ("starter", "Llama-3.2-1B", "GPT-3-175B", "Qwen2.5-7B")


def compare(model: str, **method: object):
    spec = RunSpec.parse({"model": {"id": model}, "method": method or {"family": "lora"}})
    shape = find_shape(model, StudioHome(Path("/nowhere")))
    return spec, shape, {item.card.family: item for item in compare_families(spec, shape, MACHINE)}


@pytest.mark.parametrize("model", MODELS)
def test_cards_count_what_the_plans_alternatives_count(model: str) -> None:
    spec, shape, found = compare(model)
    alternatives = {item.family: item for item in make_plan(spec, shape, MACHINE).alternatives}
    assert list(found) == list(alternatives) == ["lora", "qlora", "adapter", "prefix"]
    for family, item in found.items():
        assert item.card.parameters == alternatives[family].trainable_parameters
        assert item.quantization == alternatives[family].quantization
        assert item.card.parameters == item.card.layers * sum(part.parameters for part in item.card.parts)
    assert [family for family, item in found.items() if item.current] == ["lora"]


def test_the_lectures_figures_are_counted_again() -> None:
    _, _, found = compare("starter")
    checks = {family: item.checks[0] for family, item in found.items()}
    assert checks["lora"].found == "851,968 of 1,236,666,368, 0.0689 %" and checks["lora"].agrees
    assert checks["adapter"].found == "264,256" and checks["adapter"].agrees
    assert checks["prefix"].found == "262,144" and checks["prefix"].agrees


def test_four_times_less_memory_holds_for_a_large_model_and_not_for_the_starter() -> None:
    """The starter: 106,168,320 linear weights of 134,515,008. In 16 bits 269.0 MB; 4.127 bits for the linear ones: 111.5 MB."""
    small, large = compare("starter")[2]["qlora"], compare("GPT-3-175B")[2]["qlora"]
    assert "2.41 times for this model, 269 MB to 111 MB" in small.checks[0].found
    assert not small.checks[0].agrees and large.checks[0].agrees
    assert small.checks[1].how.startswith("Measured on the starter") and not small.checks[1].agrees
    assert small.base_bytes == pytest.approx(106_168_320 * 4.127 / 8 + 28_346_688 * 2, rel=1e-4)


def test_the_chosen_methods_own_settings_are_on_its_card_and_the_others_at_their_defaults() -> None:
    _, shape, found = compare("starter", family="adapter", bottleneck=16, placement="houlsby")
    assert [part.place for part in found["adapter"].card.parts] == ["self_attn.o_proj", "mlp.down_proj"]
    assert found["adapter"].card.parameters == 30 * 2 * (2 * 576 * 16 + 16 + 576)
    default = RunSpec.parse({}).method
    assert found["lora"].card.parameters == get_method("lora").added_parameters(default, shape)
