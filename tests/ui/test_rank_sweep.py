"""A sweep changes the rank and nothing else, and draws only runs that are alike."""

from __future__ import annotations

import pytest

from studio.core.errors import AnalysisError
from studio.core.spec import RunSpec
from studio.plots.rank_sweep import Point, sweep_figure
from studio.ui.rank_sweep import RANKS, alike, with_rank


def spec(**changes):
    return RunSpec.parse({"name": "mine", "method": {"family": "lora", "rank": 8, "alpha": 16}, **changes})


@pytest.mark.parametrize("rank", RANKS)
def test_only_rank_and_with_it_alpha_and_name_change(rank):
    swept = with_rank(spec(), rank)
    assert (swept.method.rank, swept.method.alpha, swept.name) == (rank, 2 * rank, f"mine r={rank}")
    assert alike(spec(), swept)
    assert with_rank(swept, 4).name == "mine r=4"


def test_a_run_with_another_learning_rate_is_not_alike():
    assert not alike(spec(), spec(training={"learning_rate": 0.01}))
    assert not alike(spec(), spec(model={"id": "other/model"}))


def test_another_family_has_no_rank():
    with pytest.raises(AnalysisError, match="Only LoRA"):
        with_rank(RunSpec.parse({"method": {"family": "prefix"}}), 4)


def test_the_line_goes_through_the_best_run_of_each_rank():
    figure = sweep_figure([Point(8, 1.2, 80, "a"), Point(1, 1.5, 10, "b"), Point(8, 1.1, 80, "c")])
    line, dots = figure.data
    assert (list(line.x), list(line.y)) == ([1, 8], [1.5, 1.1])
    assert list(dots.y) == [1.2, 1.5, 1.1]
