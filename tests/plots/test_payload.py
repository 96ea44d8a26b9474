"""Every figure of the laboratories, with its caption and download, stays under 500 KB at the shape of a 7B model.

32 layers x 7 modules, r 64, as many snapshots as a run keeps; block maxima and codes of a 4096 x 11008 matrix; prefixes of 32 heads;
adapters of 32 x 2 places. Numbers are random: equal ones would be shorter than real ones.
"""

from __future__ import annotations

import json
import random

import pytest

from studio.analysis.model_report import report_module
from studio.analysis.quantization_info import QuantizationOptions
from studio.plots import insides, rank_sweep, similarity
from studio.train.snapshots import MAX_SNAPSHOTS
from studio.ui import heat_map, quantization_view, rank_tuned, rank_view
from studio.ui import insides as insides_view

LIMIT = 500_000
LAYERS, HEADS, R = 32, 32, 64
MODULES = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]  # fmt: skip
numbers = random.Random(0)


def values(count, scale=1.0):
    return sorted((scale * numbers.random() for _ in range(count)), reverse=True)


def sent(parts):
    """Bytes of what a handler gives for one figure: the plot as Gradio writes it, and its caption with the CSV in its link."""
    text = 0
    for part in parts:
        figure = part.get("value") if isinstance(part, dict) else part
        text += len((figure.to_json() if hasattr(figure, "to_json") else str(figure)).encode())
    return text


@pytest.fixture(scope="module")
def adapter():
    """A LoRA's report as the worker writes it."""
    modules = [
        {
            "name": f"model.layers.{layer}.{module}", "layer": layer, "module": module, "rows": 4096, "columns": 11008, "r": R,
            "scaling": 2.0, "dora": False, "singular_values": values(R), "noise_floor": 0.0123456, "rank_above_noise": 3,
            "ranks": {"frobenius": numbers.random(), "largest": 1.0, "effective_rank": 60 * numbers.random(), "stable_rank": 2.345678,
                      "energy_rank": 5},
        }
        for layer in range(LAYERS) for module in MODULES
    ]  # fmt: skip
    growth = [
        {"step": 1000 * step, "median_effective_rank": 60 * numbers.random(), "update_norm": numbers.random()}
        for step in range(MAX_SNAPSHOTS)
    ]
    return {"modules": modules, "growth": growth, "step": 1000, "r": R, "alpha": 128.0, "rslora": False, "dora": False, "advice": []}


def test_spectrum_and_growth(adapter):
    assert sent(rank_view.spectrum_values(adapter, adapter["modules"][100])) < LIMIT
    assert sent(rank_view.growth_values(adapter)) < LIMIT


@pytest.mark.parametrize("measure", rank_view.MEASURES)
def test_the_rank_heat_map(measure, adapter):
    assert len(rank_view.heat(adapter, measure, adapter["modules"][0]["name"]).encode()) < LIMIT


def test_the_subspace_heat_map():
    phi, control = ([[numbers.random() for _ in range(R)] for _ in range(R)] for _ in range(2))
    report = {"phi": phi, "control": control}
    rows = [(i, j, value, control[i][j]) for i, row in enumerate(phi) for j, value in enumerate(row)]
    figure = similarity.similarity_figure(similarity.similarity_info(report, "one", "other"))
    link = heat_map.csv_link("subspace-similarity", ("i", "j", "phi", "random"), rows)
    assert sent([figure, link]) < LIMIT


def test_the_spectrum_of_a_whole_matrix():
    report = {"singular_values": values(4096), "noise_floor": 0.123456}
    assert sent(rank_tuned.spectrum_values(report)) < LIMIT


def test_the_heat_map_of_a_tuned_model():
    modules = [
        {"name": f"model.layers.{layer}.{module}", "stack": "model.layers", "layer": layer, "module": module,
         "relative_norm": numbers.random()}
        for layer in range(LAYERS) for module in MODULES
    ]  # fmt: skip
    assert len(rank_tuned.heat({"modules": modules}, modules[0]["name"]).encode()) < LIMIT


def test_the_quantization_heat_map():
    modules = [
        {"name": f"model.layers.{layer}.{module}", "stack": "model.layers", "layer": layer, "module": module,
         "errors": {"nf4": {"sqnr_db": 20 + numbers.random()}}}
        for layer in range(LAYERS) for module in MODULES
    ]  # fmt: skip
    assert len(quantization_view.heat({"modules": modules}, "nf4", "0|x").encode()) < LIMIT


@pytest.fixture(scope="module")
def wide_matrix(tmp_path_factory):
    """A model of one 4096 x 11008 matrix of normal weights, 16 bits."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("wide")
    weight = torch.randn(4096, 11008, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"model.layers.0.mlp.down_proj.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_the_figures_of_a_wide_matrix_under_every_type(wide_matrix):
    from studio.analysis.jsonable import to_jsonable

    report = to_jsonable(report_module(wide_matrix, 0, "down_proj", QuantizationOptions(block_size=32)))
    for kind in quantization_view.TITLES:
        shown = quantization_view.module_values(report, kind)
        assert max(sent(shown[first : first + 2]) for first in (1, 3, 5)) < LIMIT


@pytest.mark.parametrize("units", [64, 256, 2048])
def test_the_units_of_an_adapter_in_every_layer(units):
    places = [
        {"layer": layer, "place": name, "active": [numbers.randrange(1000) for _ in range(units)], "hidden_norm": numbers.random(),
         "change_norm": numbers.random(), "ratio": numbers.random()}
        for layer in range(LAYERS) for name in ("self_attn.o_proj", "mlp.down_proj")
    ]  # fmt: skip
    report = {"tokens": 1000, "places": places}
    assert sent(insides_view.units_values(report)) < LIMIT
    assert sent(insides_view.norms_values(report)) < LIMIT
    assert insides.units_info(report).total == units * 2 * LAYERS


def test_the_attention_on_a_prefix():
    report = {"layers": list(range(LAYERS)), "mass": [[numbers.random() for _ in range(HEADS)] for _ in range(LAYERS)], "even_share": 0.5}
    assert sent(insides_view.mass_values(report)) < LIMIT


def test_a_sweep_of_a_thousand_runs():
    points = [
        rank_sweep.Point(2 ** (index % 7), numbers.random(), 10**6 + index, f"a run with a long name, number {index}")
        for index in range(1000)
    ]
    assert sent([rank_sweep.sweep_figure(points)]) < LIMIT
