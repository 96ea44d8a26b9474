"""Sums over a weight matrix, taken chunk by chunk in float32 scratch that stays in the processor's cache.

Sums inside a block or a row are float32, across them float64. Moments are taken of weights divided by a power of two near the
first chunk's maximum, so that fourth powers neither overflow nor vanish. `read(start, stop)` gives a flat slice as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from studio.analysis.codebooks import Codebook, codebook
from studio.analysis.quantize import SMALLEST_DIVISOR, block_absmax, check_finite, count_ranks, normalise_blocks, row_scale

CHUNK = 1 << 16
HISTOGRAM_BINS = 256
STANDARD_BINS = 1024
STANDARD_HALF_WIDTH = 8.0
Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class RowSums:
    """Per row: maximum, energy, INT8 error. Per column: energy, maximum. Over all: mean, std, kurtosis, counts of -127..127."""

    mean: float
    std: float
    excess_kurtosis: float | None
    maxima: np.ndarray
    row_energy: np.ndarray
    int8_error: np.ndarray
    int8_counts: np.ndarray
    column_energy: np.ndarray
    column_maxima: np.ndarray


@dataclass(frozen=True)
class TypeSums:
    """One code book: counts by ascending level; per block, in units of its maximum: sum d^2, sum d q, sum q^2 (d = x - q)."""

    counts: np.ndarray
    error: np.ndarray
    error_level: np.ndarray
    level: np.ndarray


@dataclass(frozen=True)
class BlockSums:
    """Per block: maximum and energy of the normalised weights. Histograms of normalised and of standardised weights."""

    weights: int
    absmax: np.ndarray
    energy: np.ndarray
    histogram: np.ndarray
    standard_counts: np.ndarray | None
    types: dict[str, TypeSums] = field(default_factory=dict)

    @staticmethod
    def standard_cdf() -> np.ndarray:
        """The normal distribution at the right edge of each bin of standard_counts."""
        return _standard_cdf()


@lru_cache(maxsize=1)
def _standard_cdf() -> np.ndarray:
    edges = np.linspace(-STANDARD_HALF_WIDTH, STANDARD_HALF_WIDTH, STANDARD_BINS + 1)[1:]
    return np.array([NormalDist().cdf(float(edge)) for edge in edges])


def sum_rows(read: Read, rows: int, columns: int, name: str) -> RowSums:
    """One pass over whole rows. Errors: AnalysisError naming the tensor for NaN or infinity."""
    step = max(1, CHUNK // columns)
    scale = 1.0
    power = np.zeros(4)
    per_row = np.zeros((3, rows))
    column_energy, column_maxima = np.zeros(columns), np.zeros(columns, dtype=np.float32)
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        chunk = read(start * columns, stop * columns).reshape(stop - start, columns)
        magnitudes = np.abs(chunk)
        maxima = magnitudes.max(axis=1)
        check_finite(maxima, name)
        if scale == 1.0 and maxima.max() > 0:
            scale = 2.0 ** -math.frexp(float(maxima.max()))[1]
        np.maximum(column_maxima, magnitudes.max(axis=0), out=column_maxima)
        per_row[:, start:stop] = maxima, *_int8_error(chunk, maxima, scale, counts)
        power += _moments(chunk, scale, column_energy)
    return _row_sums(power / (rows * columns), per_row, counts[1:], (column_energy, column_maxima), scale)


def _int8_error(chunk: np.ndarray, maxima: np.ndarray, scale: float, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy and squared INT8 error of each row, both of weights times `scale`; adds to `counts` of codes -128..127."""
    steps = chunk * row_scale(maxima)[:, None]
    codes = np.rint(steps)
    np.subtract(steps, codes, out=steps)
    unit = (maxima.astype(np.float64) * scale / 127) ** 2
    counts += np.bincount((codes + np.float32(128)).astype(np.uint8).reshape(-1), minlength=256)
    scaled = chunk * np.float32(scale)
    return np.einsum("ij,ij->i", scaled, scaled), np.einsum("ij,ij->i", steps, steps) * unit


def _moments(chunk: np.ndarray, scale: float, column_energy: np.ndarray) -> np.ndarray:
    scaled = chunk * np.float32(scale)
    squares = scaled * scaled
    column_energy += squares.sum(axis=0)
    first, second = scaled.sum(axis=1), squares.sum(axis=1)
    third, fourth = np.einsum("ij,ij->i", squares, scaled), np.einsum("ij,ij->i", squares, squares)
    return np.array([sums.sum(dtype=np.float64) for sums in (first, second, third, fourth)])


def _row_sums(
    moments: np.ndarray, per_row: np.ndarray, counts: np.ndarray, columns: tuple[np.ndarray, np.ndarray], scale: float
) -> RowSums:
    mean, second, third, fourth = (float(moment) for moment in moments)
    variance = second - mean * mean
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    constant = variance <= 1e-12 * second or second == 0
    return RowSums(
        mean=mean / scale,
        std=0.0 if constant else math.sqrt(variance) / scale,
        excess_kurtosis=None if constant else central / variance**2 - 3,
        maxima=per_row[0].astype(np.float32),
        row_energy=per_row[1] / scale**2,
        int8_error=per_row[2] / scale**2,
        int8_counts=counts,
        column_energy=columns[0] / scale**2,
        column_maxima=columns[1],
    )


class _Scratch:
    """Arrays of one chunk, made once per tensor and shared by all code books."""

    def __init__(self, size: int) -> None:
        self.normalised, self.levels, self.difference = (np.empty(size, dtype=np.float32) for _ in range(3))
        self.ranks, self.mask = np.empty(size, dtype=np.uint8), np.empty(size, dtype=bool)


def sum_blocks(read: Read, weights: int, block_size: int, names: tuple[str, ...], normal: tuple[float, float]) -> BlockSums:
    """One pass over blocks of `block_size` weights for the code books `names`; `normal` is the mean and std to standardise with."""
    blocks = -(-weights // block_size)
    absmax, energy = np.empty(blocks, dtype=np.float32), np.empty(blocks)
    types = {name: TypeSums(np.zeros(len(codebook(name).levels), np.int64), *np.empty((3, blocks))) for name in names}
    histogram, standard = np.zeros(HISTOGRAM_BINS, np.int64), np.zeros(STANDARD_BINS, np.int64)
    step = max(CHUNK, block_size)
    scratch = _Scratch(min(step, blocks * block_size))
    for start in range(0, weights, step):
        stop = min(weights, start + step)
        chunk = read(start, stop)
        here = slice(start // block_size, -(-stop // block_size))
        absmax[here], normalised = _normalise(chunk, block_size, scratch)
        histogram += _histogram(normalised[: chunk.size], HISTOGRAM_BINS, 1.0, (0.0, 1.0))
        if normal[1] > 0:
            standard += _histogram(chunk, STANDARD_BINS, STANDARD_HALF_WIDTH, normal)
        by_block = normalised.reshape(-1, block_size)
        energy[here] = np.einsum("ij,ij->i", by_block, by_block)
        for name, sums in types.items():
            _add_type(codebook(name), sums, here, (normalised, chunk.size, block_size), scratch)
    return BlockSums(weights, absmax, energy, histogram, standard if normal[1] > 0 else None, types)


def _normalise(chunk: np.ndarray, block_size: int, scratch: _Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Block maxima and normalised weights of a chunk; a short last block is filled up with zeros, which every code book keeps."""
    absmax = block_absmax(np.abs(chunk), block_size)
    if chunk.size % block_size:
        absmax[-1] = max(absmax[-1], SMALLEST_DIVISOR)
    normalised = scratch.normalised[: len(absmax) * block_size]
    normalise_blocks(chunk, absmax, block_size, normalised[: chunk.size])
    normalised[chunk.size :] = 0
    return absmax, normalised


def _histogram(values: np.ndarray, bins: int, half_width: float, normal: tuple[float, float]) -> np.ndarray:
    """Counts of (values - mean) / std in equal bins over [-half_width, half_width]; what lies outside counts in the end bins."""
    mean, std = normal
    factor = bins / (2 * half_width * std)
    position = values * np.float32(factor) + np.float32(bins / 2 - mean * factor)
    np.clip(position, 0, bins - 1, out=position)
    return np.bincount(position.astype(np.intp), minlength=bins)


def _add_type(book: Codebook, sums: TypeSums, here: slice, chunk: tuple[np.ndarray, int, int], scratch: _Scratch) -> None:
    normalised, size, block_size = chunk
    ranks, mask, levels, difference = (a[: normalised.size] for a in (scratch.ranks, scratch.mask, scratch.levels, scratch.difference))
    sums.counts[:] += count_ranks(normalised, book.boundaries, ranks, mask)
    sums.counts[np.searchsorted(book.boundaries, np.float32(0))] -= normalised.size - size
    np.take(book.ascending, ranks, out=levels, mode="clip")
    np.subtract(normalised, levels, out=difference)
    d, q = difference.reshape(-1, block_size), levels.reshape(-1, block_size)
    sums.error[here] = np.einsum("ij,ij->i", d, d)
    sums.error_level[here] = np.einsum("ij,ij->i", d, q)
    sums.level[here] = np.einsum("ij,ij->i", q, q)
