"""Spectra, growth and similarity as figures: known numbers in, the same numbers drawn."""

from __future__ import annotations

import pytest

from studio.plots import similarity, spectrum


def module(layer, values, floor=0.1):
    return {"name": f"m.{layer}.q_proj", "module": "q_proj", "singular_values": values, "noise_floor": floor}


def trace(figure, name):
    return next(data for data in figure.data if data.name == name)


def test_the_modules_own_values_and_the_median_of_its_kind_are_drawn():
    report = {"modules": [module(0, [4.0, 1.0]), module(1, [2.0, 0.5]), module(2, [3.0, 0.2])]}
    figure = spectrum.spectrum_figure(spectrum.spectrum_info(report, "m.1.q_proj"))
    assert list(trace(figure, "this module").y) == [2.0, 0.5]
    assert list(trace(figure, "q_proj, median of all layers").y) == [3.0, 0.5]
    assert set(trace(figure, "noise floor").y) == {0.1}
    assert figure.layout.yaxis.type == "log"


def test_values_of_zero_leave_a_gap_and_an_update_of_zero_is_said():
    info = spectrum.SpectrumInfo([2.0, 0.0], 0.0, [], "q_proj")
    assert list(trace(spectrum.spectrum_figure(info), "this module").y) == [2.0, None]
    empty = spectrum.spectrum_figure(spectrum.SpectrumInfo([0.0, 0.0], 0.0, [], "q_proj"))
    assert "exactly zero" in empty.layout.annotations[0].text


@pytest.mark.parametrize(("values", "ticks"), [([0.3, 0.02], [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]), ([1e-4, 2.0], None)])
def test_the_axis_names_round_numbers(values, ticks):
    found = list(spectrum.spectrum_figure(spectrum.SpectrumInfo(values, 0.0, [], "q")).layout.yaxis.tickvals)
    assert found == (ticks or [1e-4, 1e-3, 1e-2, 0.1, 1, 10])


def test_growth_needs_two_snapshots_and_marks_the_one_looked_at():
    points = [{"step": 0, "median_effective_rank": 0.0, "update_norm": 0.0}, {"step": 5, "median_effective_rank": 3.5, "update_norm": 2.0}]
    figure = spectrum.growth_figure(spectrum.growth_info({"growth": points, "step": 5}))
    assert list(trace(figure, "size of the update").y) == [0.0, 2.0]
    assert list(trace(figure, "median effective rank").y) == [0.0, 3.5]
    assert [shape.x0 for shape in figure.layout.shapes] == [5]
    assert not spectrum.growth_figure(spectrum.growth_info({"growth": points[:1]})).data


def test_similarity_and_its_control_share_one_scale():
    report = {"phi": [[1.0, 0.5], [0.5, 0.75]], "control": [[0.1, 0.2], [0.2, 0.3]]}
    figure = similarity.similarity_figure(similarity.similarity_info(report, "one", "other"))
    assert [[list(row) for row in data.z] for data in figure.data] == [report["phi"], report["control"]]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert {data.coloraxis for data in figure.data} == {"coloraxis"}


def test_ranks_of_128_stay_small_enough_to_send():
    rows = [[0.1234] * 128] * 128
    figure = similarity.similarity_figure(similarity.similarity_info({"phi": rows, "control": rows}, "a", "b"))
    assert len(figure.to_json().encode()) < 500_000
