from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.files import append_line, write_atomic
from studio.core.paths import RunPaths
from studio.core.records import StepRecord
from studio.jobs.metrics import MetricTable, downsample, last_value, metric_table, read_metrics, sparkline


def write(path: Path, *records: StepRecord) -> None:
    for record in records:
        append_line(path, record.to_json())


def trained(step: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(step=step, loss=loss, tokens=step * 10, seconds=float(step), memory_bytes=1_000)


def test_a_torn_last_line_waits_for_the_next_look(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write(paths.metrics, trained(1), trained(2))
    with paths.metrics.open("a") as file:
        file.write('{"step": 3, "lo')
    records, offset = read_metrics(paths)
    assert records == [trained(1), trained(2)]
    with paths.metrics.open("a") as file:
        file.write('ss": 0.5}\n')
    assert read_metrics(paths, offset)[0] == [StepRecord(step=3, loss=0.5)]


def test_the_table_grows_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    table = MetricTable(path)
    assert not table.update()
    write(path, StepRecord(step=0, eval_loss=3.0), trained(1, 2.5))
    assert table.update()
    assert not table.update()
    write(path, trained(2, 2.0))
    assert table.update()
    assert table.records() == [StepRecord(step=0, eval_loss=3.0), trained(1, 2.5), trained(2, 2.0)]
    assert table.series("loss") == ([1, 2], [2.5, 2.0])
    assert table.series("eval_loss") == ([0], [3.0])


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\nrubbish\n[1]\n{"loss": 3}\n1,2\n{"step": 2, "loss": null}\n')
    table = MetricTable(path)
    table.update()
    assert table.records() == [StepRecord(step=1, loss=2.0), StepRecord(step=2)]


def test_a_resumed_run_writes_over_what_it_does_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = [trained(1), trained(2), StepRecord(step=2, eval_loss=1.5), trained(3), trained(4)]
    again = [StepRecord(step=2, eval_loss=1.4), trained(3, 0.5), trained(4, 0.4), trained(5, 0.3)]
    write(path, *first, *again)
    table = MetricTable(path)
    table.update()
    assert table.records() == [*first[:2], *again]


@pytest.mark.parametrize("how", ["shortened", "replaced"])
def test_a_file_that_was_rewritten_is_read_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, *[trained(step) for step in range(1, 20)])
    table = MetricTable(path)
    table.update()
    if how == "shortened":
        path.write_text("")
        write(path, trained(1, 9.0))
    else:
        write_atomic(path, "".join(json.dumps(trained(step, 9.0).to_json()) + "\n" for step in range(1, 40)))
    assert table.update()
    assert table.records()[0] == trained(1, 9.0)
    assert len(table) == (1 if how == "shortened" else 39)


def test_one_table_a_run_is_kept(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write(paths.metrics, trained(1))
    assert metric_table(paths) is metric_table(paths)
    assert len(metric_table(paths)) == 1


losses = st.one_of(st.none(), st.floats(-10, 10))


@given(st.lists(losses, max_size=200), st.integers(4, 60))
def test_downsampling_keeps_order_ends_and_extremes(values: list[float | None], max_points: int) -> None:
    records = [StepRecord(step=i, loss=value) for i, value in enumerate(values)]
    kept = downsample(records, max_points)
    assert len(kept) <= max(max_points, 4)
    assert [record.step for record in kept] == sorted({record.step for record in kept})
    assert all(record is records[record.step] for record in kept)
    if records:
        assert kept[0] == records[0] and kept[-1] == records[-1]
    known = [value for value in values if value is not None]
    if known:
        assert min(known) in [record.loss for record in kept]
        assert max(known) in [record.loss for record in kept]


def test_evaluations_survive_downsampling() -> None:
    records = [trained(step) for step in range(1, 1001)]
    evals = [StepRecord(step=step, eval_loss=2.0) for step in range(0, 1001, 200)]
    merged = sorted([*records, *evals], key=lambda record: record.step)
    kept = downsample(merged, 50)
    assert len(kept) <= 50
    assert [record for record in kept if record.eval_loss is not None] == evals


def test_fifty_thousand_steps_fit_on_the_wire(tmp_path: Path) -> None:
    numbers = random.Random(0)
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": step, "epoch": step / 50_000, "loss": numbers.random(), "learning_rate": 1e-4 * numbers.random(),
         "grad_norm": numbers.random(), "tokens": step * 700, "tokens_per_s": 300 + numbers.random(), "memory_bytes": 900_000_000 + step,
         "seconds": step * 1.7}
        for step in range(50_000)
    ]  # fmt: skip
    lines[31_337]["loss"] = 99.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = MetricTable(path)
    table.update()
    kept = table.records(max_points=1_000)
    assert len(kept) <= 1_000
    assert len(json.dumps([record.to_json() for record in kept])) < 300_000
    assert max(record.loss or 0 for record in kept) == 99.0


def test_the_sparkline_of_a_short_run_is_its_losses(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, StepRecord(step=0, eval_loss=7.0), trained(1, 3.0), trained(2, 2.0), StepRecord(step=2, eval_loss=6.0))
    assert sparkline(path) == (3.0, 2.0)
    assert last_value(path, "loss") == 2.0
    assert last_value(path, "eval_loss") == 6.0
    assert last_value(path, "grad_norm") is None


def test_the_sparkline_of_a_long_run_follows_its_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(trained(step, 10 - step / 1000).to_json()) + "\n" for step in range(10_000)))
    line = sparkline(path)
    assert 20 <= len(line) <= 40
    assert list(line) == sorted(line, reverse=True)
    assert line[0] > 9.9 and line[-1] < 0.5
    assert math.isclose(last_value(path, "loss") or 0, 0.001, abs_tol=1e-9)


def test_a_run_without_metrics_has_an_empty_sparkline(tmp_path: Path) -> None:
    assert sparkline(tmp_path / "none") == ()
    assert last_value(tmp_path / "none", "loss") is None
