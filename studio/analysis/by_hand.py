"""A few typed weights through 4-bit quantization, every step kept: scale, normalise, nearest level, code, byte, back, error.

Real types divide by the absolute maximum of the block. The lecture's way takes off the mean and divides by the standard deviation
(of the population), with a teaching code book: real NF4 does neither, and two codes the lecture prints are not the nearest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from studio.analysis.codebooks import Codebook, codebook
from studio.analysis.quantize import pack_codes, quantize_blocks
from studio.core.errors import AnalysisError

LECTURE_WEIGHTS = (0.05, -0.3, 0.95, 0.0, -0.02, 0.5)
LECTURE_PRINTED_CODES = (5, 1, 15, 5, 5, 14)
MAX_TYPED_WEIGHTS = 64
_SEPARATORS = re.compile(r"[\s,;]+")


@dataclass(frozen=True)
class WeightStep:
    """One weight on its way: distances are to every level, in code order."""

    weight: float
    normalised: float
    distances: tuple[float, ...]
    code: int
    level: float
    dequantized: float
    error: float


@dataclass(frozen=True)
class HandWalk:
    """All steps of a typed block. The scale and shift give back a weight as level * scale + shift. Bytes as two hex digits."""

    codebook: str
    levels: tuple[float, ...]
    absmax: float
    mean: float
    std: float
    shift: float
    scale: float
    steps: tuple[WeightStep, ...]
    packed_hex: tuple[str, ...]
    relative_rmse: float


@dataclass(frozen=True)
class PrintedCode:
    """A code the lecture prints that is not the nearest level."""

    weight: float
    normalised: float
    printed_code: int
    printed_distance: float
    nearest_code: int
    nearest_distance: float


def parse_weights(text: str) -> tuple[float, ...]:
    """Numbers typed with spaces, commas or line breaks between them. Errors: AnalysisError that names what is no number."""
    words = [word for word in _SEPARATORS.split(text.strip().strip("[]()")) if word]
    if not words:
        raise AnalysisError("No weights were typed.", "Type a few numbers, such as 0.05, -0.3, 0.95.")
    if len(words) > MAX_TYPED_WEIGHTS:
        raise AnalysisError(f"{len(words)} weights are too many to follow.", f"Type at most {MAX_TYPED_WEIGHTS}, one block.")
    return tuple(_parse_weight(word) for word in words)


def _parse_weight(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise AnalysisError(f"{word[:30]!r} is not a number.", "Type numbers such as -0.3, with a point and not a comma.") from error
    if not math.isfinite(value) or abs(value) > 1e30:
        raise AnalysisError(f"{word[:30]} is too large to be a weight.", "Type finite numbers.")
    if 0 < abs(value) < 1e-30:
        raise AnalysisError(f"{word[:30]} is too small to be a weight.", "Type 0, or a number that 32 bits can hold with its digits.")
    return value


def walk_by_hand(weights: tuple[float, ...], book_name: str = "nf4") -> HandWalk:
    """Every step for one block of typed weights (at most 64); book_name: nf4, fp4, int4, or teaching for the lecture's way."""
    book = codebook(book_name)
    if not 0 < len(weights) <= MAX_TYPED_WEIGHTS:
        raise AnalysisError(f"{len(weights)} weights are not one block.", f"Type 1 to {MAX_TYPED_WEIGHTS} of them.")
    values = np.array([_parse_weight(repr(float(weight))) for weight in weights])
    absmax, mean, std = float(np.abs(values).max()), float(values.mean()), float(values.std())
    if book_name == "teaching":
        if std <= 1e-12 * max(absmax, 1e-300):
            raise AnalysisError("All weights are equal, so their standard deviation is zero.", "Type at least two different weights.")
        shift, scale = mean, std
        normalised = (values - shift) / scale
        codes = _nearest_codes(book, normalised)
    else:
        shift, scale = 0.0, absmax
        normalised = values / (scale or 1.0)
        codes = quantize_blocks(values, book).codes
    return _walk(book, values, normalised, codes, (absmax, mean, std, shift, scale))


def _nearest_codes(book: Codebook, normalised: np.ndarray) -> np.ndarray:
    return book.order[np.searchsorted(book.boundaries.astype(np.float64), normalised)]


def _walk(book: Codebook, values: np.ndarray, normalised: np.ndarray, codes: np.ndarray, numbers: tuple[float, ...]) -> HandWalk:
    absmax, mean, std, shift, scale = numbers
    levels = np.array(book.levels)
    back = levels[codes] * scale + shift
    steps = tuple(
        WeightStep(
            weight=float(value),
            normalised=float(x),
            distances=tuple(np.abs(levels - x).tolist()),
            code=int(code),
            level=float(levels[code]),
            dequantized=float(restored),
            error=float(restored - value),
        )
        for value, x, code, restored in zip(values, normalised, codes, back, strict=True)
    )
    energy = float((values**2).sum())
    return HandWalk(
        codebook=book.name,
        levels=book.levels,
        absmax=absmax,
        mean=mean,
        std=std,
        shift=shift,
        scale=scale,
        steps=steps,
        packed_hex=tuple(f"{byte:02x}" for byte in pack_codes(codes, book.zero_code).tolist()),
        relative_rmse=math.sqrt(float(((back - values) ** 2).sum()) / energy) if energy > 0 else 0.0,
    )


def printed_codes_that_are_not_nearest() -> tuple[PrintedCode, ...]:
    """Where the lecture's printed codes for its own weights and code book are not the nearest levels."""
    steps = walk_by_hand(LECTURE_WEIGHTS, "teaching").steps
    return tuple(
        PrintedCode(step.weight, step.normalised, printed, step.distances[printed], step.code, step.distances[step.code])
        for step, printed in zip(steps, LECTURE_PRINTED_CODES, strict=True)
        if printed != step.code
    )
