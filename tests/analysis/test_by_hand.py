"""The lecture's worked example, number by number, and what people type wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.analysis.by_hand import LECTURE_WEIGHTS, parse_weights, printed_codes_that_are_not_nearest, walk_by_hand
from studio.core.errors import AnalysisError


def test_real_nf4_on_the_lecture_weights() -> None:
    walk = walk_by_hand(LECTURE_WEIGHTS, "nf4")
    assert walk.absmax == 0.95
    assert [step.code for step in walk.steps] == [8, 4, 15, 7, 7, 13]
    assert walk.packed_hex == ("84", "f7", "7d")
    assert walk.steps[2].dequantized == 0.95
    assert walk.steps[3].error == 0


def test_the_lecture_way_on_its_weights() -> None:
    walk = walk_by_hand(LECTURE_WEIGHTS, "teaching")
    assert round(walk.mean, 4) == 0.1967
    assert round(walk.std, 3) == 0.411
    assert [step.code for step in walk.steps] == [6, 1, 15, 5, 4, 14]


def test_the_two_printed_codes_are_not_the_nearest() -> None:
    first, fifth = printed_codes_that_are_not_nearest()
    assert (first.printed_code, first.nearest_code, first.weight) == (5, 6, 0.05)
    assert (round(first.nearest_distance, 3), round(first.printed_distance, 3)) == (0.057, 0.083)
    assert (fifth.printed_code, fifth.nearest_code, fifth.weight) == (5, 4, -0.02)
    assert (round(fifth.nearest_distance, 3), round(fifth.printed_distance, 3)) == (0.063, 0.087)


def test_a_block_of_zeros_has_no_error() -> None:
    walk = walk_by_hand((0.0, 0.0), "nf4")
    assert [step.code for step in walk.steps] == [7, 7]
    assert walk.relative_rmse == 0
    assert walk.packed_hex == ("77",)


def test_an_odd_block_is_filled_with_the_code_of_zero() -> None:
    assert walk_by_hand((1.0,), "nf4").packed_hex == ("f7",)


def test_equal_weights_have_no_deviation() -> None:
    with pytest.raises(AnalysisError, match="standard deviation is zero"):
        walk_by_hand((0.1, 0.1, 0.1), "teaching")


@pytest.mark.parametrize("text", ["[0.05, -0.3, 0.95, 0.0, -0.02, 0.5]", "0.05 -0.3 .95\n0 -2e-2; 0.5"])
def test_typed_weights_are_read(text: str) -> None:
    assert parse_weights(text) == LECTURE_WEIGHTS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "No weights"),
        ("0.1, abc", "'abc' is not a number"),
        ("nan 1", "too large"),
        ("1e400", "too large"),
        ("1e-200", "too small"),
        ("1 " * 65, "65 weights"),
    ],
)
def test_typing_mistakes_are_sentences(text: str, sentence: str) -> None:
    with pytest.raises(AnalysisError, match=sentence):
        parse_weights(text)


@given(st.text(max_size=60))
def test_any_text_gives_numbers_or_a_sentence(text: str) -> None:
    try:
        assert 0 < len(parse_weights(text)) <= 64
    except AnalysisError as error:
        assert error.message and error.hint


@given(
    st.lists(st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-30), min_size=1, max_size=64),
    st.sampled_from(["nf4", "fp4", "int4"]),
)
def test_every_step_takes_a_nearest_level(weights: list[float], book: str) -> None:
    for step in walk_by_hand(tuple(weights), book).steps:
        assert step.distances[step.code] <= min(step.distances) + 1e-6
