"""Rank by hand: a typed matrix reduced step by step in exact fractions, every row operation named.

Gauss-Jordan without moving rows until the end: in each column the first unused row with an entry becomes the pivot row, its pivot is
made 1 and all other rows are cleared. The lecture's matrix takes R2 - 2 R1, R3 - R1, R3 / -1, R1 - 2 R3, and a last swap for the form.
What it does not know: rank under measurement noise; singular values (float64) are given beside the exact rank for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from studio.core.errors import AnalysisError

MAX_SIDE = 12
MAX_DIGITS = 12
MAX_EXPONENT = 12
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_FRACTION = re.compile(r"[+-]?\d+/\d+")
Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class RowStep:
    """One row operation, such as "R2 - 2·R1", why, and the matrix after it as exact text ("1/2")."""

    operation: str
    reason: str
    matrix: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RowReduction:
    """A matrix, its steps to reduced row echelon form, and what they show. pivot_columns count from 0."""

    matrix: tuple[tuple[str, ...], ...]
    steps: tuple[RowStep, ...]
    reduced: tuple[tuple[str, ...], ...]
    rank: int
    full_rank: int
    nullity: int
    pivot_columns: tuple[int, ...]
    singular_values: tuple[float, ...]


def parse_matrix(text: str) -> Matrix:
    """A typed matrix: rows by line breaks, semicolons or brackets; numbers by spaces or commas; 1/2 and 0.5 and 5e-1 stay exact.

    Errors: AnalysisError for letters, ragged rows, nothing, more than 12 x 12, more than 12 digits, or a division by zero.
    """
    if len(text) > 20_000:
        raise _too_big("More numbers than can be followed by eye were typed.")
    rows = [row for row in (_row_words(line) for line in _row_texts(text)) if row]
    if not rows:
        raise AnalysisError("No matrix was typed.", "Type rows of numbers, such as 1 2 3 on one line and 2 4 6 on the next.")
    widths = [len(row) for row in rows]
    if len(rows) > MAX_SIDE or max(widths) > MAX_SIDE:
        raise _too_big(f"{len(rows)} rows by {max(widths)} columns is too big to follow.")
    if len(set(widths)) > 1:
        odd = next(index for index, width in enumerate(widths) if width != widths[0])
        raise AnalysisError(f"Row 1 has {widths[0]} numbers, but row {odd + 1} has {widths[odd]}.", "Give every row the same length.")
    return tuple(tuple(_parse_entry(word) for word in row) for row in rows)


def _too_big(message: str) -> AnalysisError:
    return AnalysisError(message, f"Type at most {MAX_SIDE} rows and {MAX_SIDE} columns.")


def _row_texts(text: str) -> list[str]:
    """Rows as text. Brackets separate rows only where there are several: [[1, 2], [3, 4]]."""
    return re.split(r"[\n;]|\]\s*,?\s*\[", text.replace("−", "-"))


def _row_words(line: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", line.strip(" \t\r[](),")) if word]


def _parse_entry(word: str) -> Fraction:
    shown = repr(word[:20])
    number = _NUMBER.fullmatch(word)
    if number is None and not _FRACTION.fullmatch(word):
        raise AnalysisError(f"{shown} is not a number.", "Type whole numbers, decimals such as 0.5, or fractions such as 1/2.")
    mantissa, _, exponent = word.lower().partition("e")
    if sum(letter.isdigit() for letter in mantissa) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise AnalysisError(f"{shown} has too many digits to follow.", f"Type at most {MAX_DIGITS} digits.")
    try:
        return Fraction(word)
    except ZeroDivisionError as error:
        raise AnalysisError(f"{shown} divides by zero.", "Give the fraction another denominator.") from error


def reduce_rows(matrix: Matrix) -> RowReduction:
    """Reduce a matrix of fractions to reduced row echelon form, naming every step."""
    work = [list(row) for row in matrix]
    columns = len(work[0])
    steps: list[RowStep] = []
    pivots: dict[int, int] = {}
    for column in range(columns):
        row = next((i for i in range(len(work)) if i not in pivots.values() and work[i][column] != 0), None)
        if row is not None:
            _clear_column(work, row, column, steps)
            pivots[column] = row
    _sort_rows(work, list(pivots.values()), steps)
    return RowReduction(
        matrix=_as_text(matrix),
        steps=tuple(steps),
        reduced=_as_text(work),
        rank=len(pivots),
        full_rank=min(len(work), columns),
        nullity=columns - len(pivots),
        pivot_columns=tuple(pivots),
        singular_values=_singular_values(matrix),
    )


def _clear_column(work: list[list[Fraction]], row: int, column: int, steps: list[RowStep]) -> None:
    """Make the entry of `row` in `column` 1 and the rest of the column 0; rows keep their places."""
    pivot = work[row][column]
    if pivot != 1:
        work[row] = [entry / pivot for entry in work[row]]
        _note(steps, work, f"R{row + 1} / {_shown(pivot)}", f"make the pivot of column {column + 1} one")
    for other in range(len(work)):
        factor = work[other][column]
        if other != row and factor != 0:
            work[other] = [entry - factor * own for entry, own in zip(work[other], work[row], strict=True)]
            _note(steps, work, f"R{other + 1} {_minus(factor)}R{row + 1}", f"clear column {column + 1}")


def _sort_rows(work: list[list[Fraction]], order: list[int], steps: list[RowStep]) -> None:
    """Swap rows until the pivots run from top left to bottom right and rows of zeros lie below."""
    places = list(range(len(work)))
    for target, original in enumerate(order):
        source = places.index(original)
        if source != target:
            work[target], work[source] = work[source], work[target]
            places[target], places[source] = places[source], places[target]
            _note(steps, work, f"R{target + 1} ↔ R{source + 1}", "put the pivots in order, rows of zeros last")


def _note(steps: list[RowStep], work: list[list[Fraction]], operation: str, reason: str) -> None:
    steps.append(RowStep(operation, reason, _as_text(work)))


def _shown(value: Fraction) -> str:
    return f"({value})" if value.denominator != 1 else str(value)


def _minus(factor: Fraction) -> str:
    sign, size = ("-", factor) if factor > 0 else ("+", -factor)
    return f"{sign} " if size == 1 else f"{sign} {_shown(size)}·"


def _as_text(matrix: Matrix | list[list[Fraction]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(entry) for entry in row) for row in matrix)


def _singular_values(matrix: Matrix) -> tuple[float, ...]:
    values = np.array([[float(entry) for entry in row] for row in matrix])
    return tuple(np.linalg.svd(values, compute_uv=False).tolist())
