"""The lecture's parameter counts and neurons, and pictures rebuilt as Eckart and Young say."""

from __future__ import annotations

import numpy as np
import pytest

from studio.analysis.low_rank import approximate_picture, factor_picture, lora_size, neuron_example
from studio.core.errors import AnalysisError


def test_the_lecture_layer() -> None:
    size = lora_size(inputs=512, outputs=1024, r=50)
    assert (size.full, size.a, size.b, size.lora) == (524_288, 25_600, 51_200, 76_800)
    assert round(size.times_fewer, 1) == 6.8


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0), (10**7, 1, 1)])
def test_impossible_layers_are_sentences(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(AnalysisError, match="is no size of a layer"):
        lora_size(*sizes)


def test_a_hundred_neurons_of_rank_ten() -> None:
    example = neuron_example()
    assert (example.outputs, example.rank, len(example.independent), len(example.dependent)) == (100, 10, 10, 90)
    assert example.largest_error < 1e-10
    assert np.shape(example.coefficients) == (90, 10)
    with pytest.raises(AnalysisError, match="cannot have rank 11"):
        neuron_example(outputs=10, inputs=20, rank=11)


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3)])
def test_a_picture_is_rebuilt_as_its_figures_say(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).random(shape) * 255
    factors = factor_picture(picture)
    whole, info = approximate_picture(factors, factors.full_rank)
    assert np.allclose(whole, picture)
    assert info.relative_error == pytest.approx(0, abs=1e-12)
    coarse, info = approximate_picture(factors, 4)
    assert coarse.shape == shape
    assert info.relative_error == pytest.approx(np.linalg.norm(coarse - picture) / np.linalg.norm(picture))
    assert info.numbers_stored == info.channels * 4 * 51
    nothing, info = approximate_picture(factors, 0)
    assert not nothing.any() and info.relative_error == 1


def test_a_picture_of_low_rank_needs_no_more() -> None:
    stripes = np.outer(np.arange(1, 41), np.arange(1, 31)).astype(np.uint8)
    stripes[:] = np.outer(np.ones(40), np.arange(30))
    assert approximate_picture(factor_picture(stripes), 1)[1].relative_error == pytest.approx(0, abs=1e-12)
    black, info = approximate_picture(factor_picture(np.zeros((5, 5))), 1)
    assert not black.any() and info.relative_error == 0


@pytest.mark.parametrize("shape", [(5,), (5, 5, 2), (0, 5), (2000, 5), (2, 2, 2, 2)])
def test_what_is_no_picture_is_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(AnalysisError):
        factor_picture(np.zeros(shape))


def test_ranks_a_picture_does_not_have_are_sentences() -> None:
    factors = factor_picture(np.ones((4, 6)))
    with pytest.raises(AnalysisError, match="Choose 0 to 4"):
        approximate_picture(factors, 5)
