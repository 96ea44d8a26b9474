"""The numbers behind the loss figures: smoothing, several runs over each other."""

from __future__ import annotations

import pytest

from studio.core.records import StepRecord
from studio.plots.compare import compare_figure, compare_info
from studio.plots.loss import loss_figure, loss_info, smooth
from studio.plots.vitals import vitals_figure, vitals_info

RECORDS = [
    StepRecord(0, eval_loss=3.0),
    StepRecord(1, loss=3.0, learning_rate=1e-3, grad_norm=2.0, tokens_per_s=400.0, memory_bytes=1_500_000_000),
    StepRecord(2, loss=2.0, learning_rate=5e-4, grad_norm=1.0, tokens_per_s=420.0, memory_bytes=1_600_000_000),
    StepRecord(2, eval_loss=2.5),
]


def test_smoothing_is_the_weighted_mean_of_what_came_before() -> None:
    values = [4.0, 2.0, 6.0, 1.0]
    weight = 0.7
    for n in range(1, 5):
        weights = [weight ** (n - 1 - i) for i in range(n)]
        expected = sum(w * v for w, v in zip(weights, values[:n], strict=True)) / sum(weights)
        assert smooth(values, weight)[n - 1] == pytest.approx(expected)


def test_without_smoothing_the_curve_is_itself() -> None:
    assert smooth([3.0, 1.0, 2.0], 0.0) == [3.0, 1.0, 2.0]


def test_training_and_held_out_losses_are_told_apart() -> None:
    info = loss_info(RECORDS, 0.0)
    assert (info.steps, info.loss) == ([1, 2], [3.0, 2.0])
    assert (info.eval_steps, info.eval_loss) == ([0, 2], [3.0, 2.5])


def test_zoom_is_kept_within_one_run_and_given_up_for_another() -> None:
    first, second = loss_figure(loss_info(RECORDS), revision="a"), loss_figure(loss_info(RECORDS), revision="b")
    assert (first.layout.uirevision, second.layout.uirevision) == ("a", "b")
    assert vitals_figure(vitals_info(RECORDS), revision="a").layout.uirevision == "a"


def test_measured_memory_is_drawn_beside_the_plan() -> None:
    info = vitals_info(RECORDS, 1_450_000_000)
    assert info.memory_gb == [(1, 1.5), (2, 1.6)]
    assert info.planned_gb == 1.45
    lines = [shape for shape in vitals_figure(info).layout.shapes if shape.y0 == 1.45]
    assert len(lines) == 1


def test_each_run_has_one_colour_and_one_place_in_the_legend() -> None:
    figure = compare_figure(compare_info([("first", RECORDS), ("<b>second", RECORDS)], 0.0))
    assert [trace.name for trace in figure.data] == ["first", "first", "&lt;b&gt;second", "&lt;b&gt;second"]
    assert [trace.line.color for trace in figure.data][::2] == [trace.line.color for trace in figure.data][1::2]
    assert figure.data[0].line.color != figure.data[2].line.color
    assert [trace.showlegend for trace in figure.data] == [None, False, None, False]


def test_runs_without_a_step_say_so_in_words() -> None:
    figure = compare_figure(compare_info([("first", [])]))
    assert "None of these runs" in figure.layout.annotations[0].text


def test_on_a_narrow_page_the_vital_signs_stand_two_by_two() -> None:
    """Every place has its own part of the figure, and its title above it."""
    figure = vitals_figure(vitals_info(RECORDS, 1e9))
    narrow = figure.layout.meta["narrow"]
    assert narrow["height"] > figure.layout.height
    places = [(*narrow[f"xaxis{n}.domain"], *narrow[f"yaxis{n}.domain"]) for n in ("", 2, 3, 4)]
    for index, (left, right, bottom, top) in enumerate(places):
        assert -1e-9 <= left < right <= 1 + 1e-9 and -1e-9 <= bottom < top <= 1
        assert left < narrow[f"annotations[{index}].x"] < right and narrow[f"annotations[{index}].y"] == top
        for other in places[:index]:
            assert right < other[0] or left > other[1] or top < other[2] or bottom > other[3]
