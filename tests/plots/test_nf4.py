"""The quantization figures against the analysis' own report on known weights."""

from __future__ import annotations

import numpy as np
import pytest

from studio.analysis.jsonable import to_jsonable
from studio.analysis.nf4 import measure_matrix
from studio.analysis.quantization_info import QuantizationOptions
from studio.analysis.tensors import LinearLayer, TensorRef
from studio.plots import nf4

MAX_PAYLOAD_BYTES = 500_000


def report_of(weights, **options):
    ref = TensorRef("m.0.q.weight", None, 0, "F32", weights.shape)
    return to_jsonable(measure_matrix(weights, LinearLayer("m.0.q", "m", 0, "q", ref), QuantizationOptions(**options)))


@pytest.fixture(scope="module")
def normal():
    return report_of(np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32))


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int4", "int8"])
def test_shares_add_up_and_levels_ascend(normal, kind):
    info = nf4.codes_info(normal, kind)
    assert sum(info.counts) == 512 * 512
    assert sum(info.share) == pytest.approx(100)
    assert info.levels == sorted(info.levels)


def test_normal_weights_use_the_codes_as_the_ideal_says(normal):
    info = nf4.codes_info(normal, "nf4")
    assert info.codes == list(range(16))
    assert max(abs(share - ideal) for share, ideal in zip(info.share, info.ideal, strict=True)) < 0.2


def test_fp4_levels_carry_their_own_codes(normal):
    info = nf4.weights_info(normal, "fp4")
    table = normal["types"]["fp4"]["levels"]
    assert [table[code] for code in info.codes] == info.levels == sorted(table)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int4", "int8"])
@pytest.mark.parametrize("part", ["weights", "codes", "absmax"])
def test_every_figure_is_small_enough_to_send(normal, kind, part):
    info = getattr(nf4, f"{part}_info")(normal, kind)
    figure = getattr(nf4, f"{part}_figure")(info)
    assert figure.data
    assert len(figure.to_json().encode()) < MAX_PAYLOAD_BYTES


def test_the_histogram_shows_every_weight_and_all_levels(normal):
    figure = nf4.weights_figure(nf4.weights_info(normal, "nf4"))
    assert sum(figure.data[0].y) == 512 * 512
    assert [note.text for note in figure.layout.annotations] == [str(code) for code in range(16)]
    assert len(figure.layout.shapes) == 16 + 15


def test_without_double_quantization_there_is_one_series_of_maxima():
    report = report_of(np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32), double_quant=False)
    assert len(nf4.absmax_figure(nf4.absmax_info(report, "nf4")).data) == 1


def test_weights_of_zero_only_still_draw():
    report = report_of(np.zeros((64, 64), dtype=np.float32))
    info = nf4.codes_info(report, "nf4")
    assert info.share[7] == pytest.approx(100)
    assert nf4.weights_figure(nf4.weights_info(report, "nf4")).data
