"""What four compared runs share and where they differ, and that nothing starts where one of them cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studio.core.errors import SpecError
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.jobs.families import family_table, family_variants, start_family_runs
from studio.jobs.store import read_run, run_folders

MODULE = "scripted_child"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"method": {"family": "lora", "rank": 4, "init": "pissa"}, "training": {"learning_rate": 3e-4, "gradient_checkpointing": True}},
        {"method": {"family": "qlora", "rank": 4}, "model": {"quantization": "fp4"}},
        {"method": {"family": "prefix"}, "training": {"learning_rate": 5e-3}},
        {"method": {"family": "lora"}, "model": {"quantization": "int8"}, "name": "n" * 100},
    ],
)
def test_data_seed_and_budget_are_the_same(spec: dict) -> None:
    given = RunSpec.parse(spec)
    variants = family_variants(given)
    assert [variant.method.family for variant in variants] == ["lora", "qlora", "adapter", "prefix"]
    for variant in variants:
        assert variant.data == given.data
        changed = {"learning_rate": None, "gradient_checkpointing": False}
        assert variant.training.model_copy(update=changed) == given.training.model_copy(update=changed)
        if variant.method.family == given.method.family:
            assert (variant.method, variant.learning_rate, variant.quantization) == (given.method, given.learning_rate, given.quantization)
    assert variants[1].quantization in ("nf4", "fp4")


def test_a_rate_for_lora_is_not_given_to_a_prefix() -> None:
    rates = [variant.learning_rate for variant in family_variants(RunSpec.parse({"training": {"learning_rate": 2e-4}}))]
    assert rates == [2e-4, 2e-4, 1e-3, 5e-3]


def test_all_problems_at_once_and_nothing_started(home: StudioHome, make_spec: Callable[..., RunSpec]) -> None:
    def plan(spec: RunSpec) -> None:
        if spec.method.family in ("qlora", "prefix"):
            raise SpecError([f"no {spec.method.family} here"])

    with pytest.raises(SpecError) as refused:
        start_family_runs(home, make_spec(), plan, MODULE)
    assert refused.value.problems == ["qlora: no qlora here", "prefix: no prefix here"]
    assert run_folders(home) == []


def test_four_runs_wait_under_one_tag(home: StudioHome, make_spec: Callable[..., RunSpec]) -> None:
    ids = start_family_runs(home, make_spec("mine", steps=4), lambda spec: {"memory_bytes": 7}, MODULE)
    runs = [read_run(home, run_id) for run_id in ids]
    assert len({tuple(run.notes.tags) for run in runs}) == 1
    assert [row["family"] for row in family_table(runs)] == ["lora", "qlora", "adapter", "prefix"]
    assert {row["planned_memory_bytes"] for row in family_table(runs)} == {7}
