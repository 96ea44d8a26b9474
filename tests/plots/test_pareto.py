"""Which runs are worth their cost, checked against the definition by brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from studio.plots.pareto import RunCost, pareto_figure, pareto_info

NUMBERS = st.integers(1, 6)


def test_the_front_is_what_no_other_run_beats() -> None:
    runs = [
        RunCost("small", 1.5, 1e6, 2e9, 60), RunCost("large", 1.2, 8e6, 3e9, 60), RunCost("waste", 1.6, 9e6, 3e9, 90),
        RunCost("unfinished", None, 1e6, 1e9, 10), RunCost("unknown", 1.0, 0, 1e9, 10),
    ]  # fmt: skip
    info = pareto_info(runs, "parameters")
    assert [(point.name, point.cost, point.is_best) for point in info.points] == [
        ("small", 1.0, True),
        ("large", 8.0, True),
        ("waste", 9.0, False),
    ]
    assert info.missing == ["unfinished", "unknown"]
    assert [point.name for point in pareto_info(runs, "time").points if point.is_best] == ["unknown"]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_no_point_of_the_front_is_beaten_and_every_other_is(pairs: list[tuple[int, int]]) -> None:
    info = pareto_info([RunCost(str(i), float(loss), cost * 1e6, 1, 1) for i, (cost, loss) in enumerate(pairs)])
    for point in info.points:
        beaten = any(
            other.cost <= point.cost
            and other.eval_loss <= point.eval_loss
            and (other.cost, other.eval_loss) != (point.cost, point.eval_loss)
            for other in info.points
        )
        assert point.is_best is not beaten
    assert any(point.is_best for point in info.points)


def test_a_name_is_shown_as_it_is() -> None:
    figure = pareto_figure(pareto_info([RunCost("<b>%{x}", 1.0, 1e6, 1, 1)]))
    assert figure.data[1].name == "&lt;b&gt;% {x}"
    assert "% {x}" in figure.data[1].hovertemplate


def test_costs_of_different_magnitude_are_drawn_on_a_logarithmic_axis() -> None:
    near = pareto_figure(pareto_info([RunCost("a", 1.0, 1e6, 1, 1), RunCost("b", 1.0, 2e6, 1, 1)]))
    far = pareto_figure(pareto_info([RunCost("a", 1.0, 1e5, 1, 1), RunCost("b", 1.0, 9e6, 1, 1)]))
    assert (near.layout.xaxis.type, far.layout.xaxis.type) == (None, "log")
