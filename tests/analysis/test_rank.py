"""Row reduction equals sympy's; the lecture's steps are reproduced; every typing mistake is a sentence."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.analysis.rank import parse_matrix, reduce_rows
from studio.core.errors import AnalysisError

LECTURE = "[[1,2,3],[2,4,6],[1,1,1]]"
entries = st.one_of(st.integers(-9, 9).map(Fraction), st.fractions(-4, 4, max_denominator=6))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[tuple[Fraction, ...], ...]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    sparse = st.one_of(st.just(Fraction(0)), entries)
    return tuple(tuple(draw(sparse) for _ in range(columns)) for _ in range(rows))


def test_the_lecture_matrix_takes_the_lecture_steps() -> None:
    reduction = reduce_rows(parse_matrix(LECTURE))
    assert [step.operation for step in reduction.steps[:4]] == ["R2 - 2·R1", "R3 - R1", "R3 / -1", "R1 - 2·R3"]
    assert reduction.steps[-1].operation == "R2 ↔ R3"
    assert (reduction.rank, reduction.nullity, reduction.full_rank, reduction.pivot_columns) == (2, 1, 3, (0, 1))
    assert reduction.reduced == (("1", "0", "-1"), ("0", "1", "2"), ("0", "0", "0"))
    assert reduction.singular_values[2] == pytest.approx(0, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_reduction_equals_sympy(matrix: tuple[tuple[Fraction, ...], ...]) -> None:
    reduction = reduce_rows(matrix)
    exact, pivots = sympy.Matrix([[sympy.Rational(e.numerator, e.denominator) for e in row] for row in matrix]).rref()
    assert [[sympy.Rational(entry) for entry in row] for row in reduction.reduced] == exact.tolist()
    assert reduction.pivot_columns == pivots
    assert reduction.rank == len(pivots)
    assert reduction.rank + reduction.nullity == len(matrix[0])


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_every_named_step_does_what_it_says(matrix: tuple[tuple[Fraction, ...], ...]) -> None:
    reduction = reduce_rows(matrix)
    before = [[Fraction(entry) for entry in row] for row in reduction.matrix]
    for step in reduction.steps:
        before = _apply(step.operation, before)
        assert before == [[Fraction(entry) for entry in row] for row in step.matrix]


def _apply(operation: str, rows: list[list[Fraction]]) -> list[list[Fraction]]:
    """An independent reading of "R2 - 2·R1", "R2 / (1/2)" and "R1 ↔ R2"."""
    rows = [list(row) for row in rows]
    target, sign, source = operation.split(" ", 2)
    row = int(target[1:]) - 1
    if sign == "↔":
        other = int(source[1:]) - 1
        rows[row], rows[other] = rows[other], rows[row]
    elif sign == "/":
        rows[row] = [entry / Fraction(source.strip("()")) for entry in rows[row]]
    else:
        factor, _, name = source.rpartition("·")
        size = Fraction(factor.strip("()")) if factor else Fraction(1)
        other = rows[int(name[1:]) - 1]
        rows[row] = [a + (size if sign == "+" else -size) * b for a, b in zip(rows[row], other, strict=True)]
    return rows


@pytest.mark.parametrize("text", ["1 2\n3 4", "[[1, 2], [3, 4]]", "1,2;3,4", "[1 2\n 3 4]", "1/1 2.0\n\n3e0 .4e1"])
def test_typed_matrices_are_read(text: str) -> None:
    assert parse_matrix(text) == ((1, 2), (3, 4))


def test_decimals_and_fractions_stay_exact() -> None:
    assert parse_matrix("0.1 1/3 −2") == ((Fraction(1, 10), Fraction(1, 3), Fraction(-2)),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "No matrix"),
        ("[[]]", "No matrix"),
        ("1 a", "'a' is not a number"),
        ("1 nan", "'nan' is not a number"),
        ("1 inf", "not a number"),
        ("1 2\n3", "Row 1 has 2 numbers, but row 2 has 1"),
        ("1/0", "divides by zero"),
        ("1_000", "not a number"),
        ("1e999999999", "too many digits"),
        ("1234567890123", "too many digits"),
        ("1 " * 13, "1 rows by 13 columns is too big"),
        ("1\n" * 13, "13 rows by 1 columns is too big"),
        ("1 " * 1000 + "\n" + "1 " * 1000, "2 rows by 1000 columns"),
        (("1 " * 1000 + "\n") * 1000, "More numbers than can be followed"),
        ("1" * 5000, "too many digits"),
    ],
)
def test_typing_mistakes_are_sentences(text: str, sentence: str) -> None:
    with pytest.raises(AnalysisError, match=sentence) as caught:
        parse_matrix(text)
    assert caught.value.hint


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("0123456789./-+e ,;[]\n()", max_size=80)))
def test_any_text_gives_a_matrix_or_a_sentence(text: str) -> None:
    try:
        matrix = parse_matrix(text)
    except AnalysisError as error:
        assert error.message and error.hint
    else:
        assert len({len(row) for row in matrix}) == 1
        assert np.isfinite(reduce_rows(matrix).singular_values).all()
