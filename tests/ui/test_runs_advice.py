"""Which curves are warned of, and which are not: ordinary noise, a short run, a run at its beginning."""

from __future__ import annotations

import math
import random

import pytest

from studio.core.files import append_line, read_lines
from studio.core.records import StepRecord
from studio.ui.runs_advice import find_warnings, planned_memory_note


def curve(losses: list[float], evals: dict[int, float] | None = None) -> list[StepRecord]:
    records = [StepRecord(step, loss=loss, learning_rate=1e-3) for step, loss in enumerate(losses, 1)]
    records += [StepRecord(step, eval_loss=loss) for step, loss in (evals or {}).items()]
    return sorted(records, key=lambda record: record.step)


def falling(steps: int, start: float = 3.0, end: float = 1.0, noise: float = 0.1) -> list[float]:
    draw = random.Random(0)
    return [end + (start - end) * math.exp(-4 * i / steps) + draw.uniform(-noise, noise) for i in range(steps)]


def kinds(records: list[StepRecord], total: int = 0) -> list[str]:
    return [warning.kind for warning in find_warnings(records, total)]


@pytest.mark.parametrize("steps", [0, 1, 3, 12, 40, 500])
def test_a_falling_noisy_loss_warns_of_nothing(steps: int) -> None:
    assert kinds(curve(falling(steps, noise=0.3), {0: 3.0, steps // 2: 1.6, steps: 1.2})) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_hides_every_other_warning(value: float) -> None:
    found = find_warnings(curve([*falling(30), value, *([9.0] * 10)]), 0, 0.02)
    assert [warning.kind for warning in found] == ["not-finite"]
    assert "step 31" in found[0].text
    assert "0.02" in found[0].advice


def test_a_null_in_the_file_is_a_loss_that_is_not_finite(tmp_path) -> None:
    for record in curve([2.0, math.nan]):
        append_line(tmp_path / "metrics.jsonl", record.to_json())
    records = [StepRecord.from_json(line) for line in read_lines(tmp_path / "metrics.jsonl")[0]]
    assert records[1].loss is None
    assert kinds(records) == ["not-finite"]


def test_a_loss_that_rises_far_above_its_best_has_exploded() -> None:
    assert kinds(curve([*falling(60), *([4.0] * 6)])) == ["exploding"]


def test_one_bad_batch_is_no_explosion() -> None:
    assert kinds(curve([*falling(60), 9.0, *falling(60)[-10:]])) == []


def test_a_flat_loss_is_named_only_once_enough_of_the_run_is_done() -> None:
    flat = curve([2.5 + 0.01 * (step % 3) for step in range(40)])
    assert kinds(flat, 100) == ["not-learning"]
    assert kinds(flat, 1000) == []
    assert kinds(flat[:15], 20) == []


def test_a_falling_held_out_loss_clears_a_flat_training_loss() -> None:
    assert kinds(curve([2.5] * 40, {0: 2.6, 40: 2.3}), 40) == []


def test_overfitting_needs_a_training_loss_that_still_falls() -> None:
    rising = {0: 2.0, 20: 1.5, 40: 1.4, 60: 1.6}
    found = find_warnings(curve([2.5 - 0.03 * step for step in range(60)], rising))
    assert [warning.kind for warning in found] == ["overfitting"]
    assert "step 40" in found[0].text
    assert "overfitting" not in kinds(curve([1.0 + 0.002 * step for step in range(60)], rising))


def test_memory_beside_the_plan() -> None:
    assert planned_memory_note(1e9, 1.04e9) == "+4 %"
    assert planned_memory_note(None, 1e9) == planned_memory_note(1e9, 0) == ""
