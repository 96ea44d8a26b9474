"""What block quantization does to weights that really are normal: code occupancy and error, by integration.

A block of n draws from N(0, 1) has its maximum M with P(M <= m) = (2 Phi(m) - 1)^n. Divided by M, one weight sits on -1 or 1 and
the other n - 1 are normal, cut off at M. Everything follows from integrals of the normal density over the code book's cells.

What it does not know: whether real weights are normal. `crest_error` uses the measured peak of each block, so that its
prediction is wrong only as far as the inside of the blocks is not normal.
Source: arXiv 2305.14314, section 3, whose quantiles assume this; the block maximum's effect as in arXiv 2306.06965.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from studio.analysis.codebooks import codebook

_MAXIMUM_QUANTILES = 400
_CREST_POINTS = 300
_NORMAL = NormalDist()
_phi_integral = np.vectorize(_NORMAL.cdf, otypes=[float])


@dataclass(frozen=True)
class NormalIdeal:
    """N(0, 1) in blocks: share of each code (code order), entropy of the codes in bits, relative RMSE."""

    occupancy: tuple[float, ...]
    entropy_bits: float
    relative_rmse: float


def entropy_bits(counts: np.ndarray) -> float:
    """Shannon entropy in bits of counts or probabilities; 0 for no counts."""
    total = float(counts.sum())
    shares = counts[counts > 0] / total if total > 0 else np.array([1.0])
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _cell_integrals(name: str, maxima: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For N(0,1) cut off at each M: share per ascending level (points, codes), squared error and variance per weight (points,)."""
    book = codebook(name)
    edges = np.concatenate([[-1.0], np.clip(book.boundaries.astype(np.float64), -1, 1), [1.0]])
    z = maxima[:, None] * edges
    cumulative, density = _phi_integral(z), np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    inside = (cumulative[:, -1] - cumulative[:, 0])[:, None]
    share = np.diff(cumulative, axis=1) / inside
    first = -np.diff(density, axis=1) / inside
    second = share - np.diff(z * density, axis=1) / inside
    levels = maxima[:, None] * book.ascending.astype(np.float64)
    error = (second - 2 * levels * first + levels * levels * share).sum(axis=1)
    return share, np.maximum(error, 0), second.sum(axis=1)


@lru_cache(maxsize=64)
def normal_ideal(name: str, block_size: int) -> NormalIdeal:
    """What a code book does to N(0, 1) in blocks of `block_size` weights. Errors: AnalysisError for an unknown code book."""
    book = codebook(name)
    probabilities = (np.arange(_MAXIMUM_QUANTILES) + 0.5) / _MAXIMUM_QUANTILES
    maxima = np.array([_NORMAL.inv_cdf((1 + p ** (1 / block_size)) / 2) for p in probabilities])
    share, error, _ = _cell_integrals(name, maxima)
    ascending = share.mean(axis=0) * (block_size - 1) / block_size
    for extreme in np.searchsorted(book.boundaries, np.array([-1.0, 1.0], dtype=np.float32)):
        ascending[extreme] += 0.5 / block_size
    occupancy = np.empty_like(ascending)
    occupancy[book.order] = ascending
    rmse = math.sqrt(float(error.mean()) * (block_size - 1) / block_size)
    return NormalIdeal(tuple(occupancy.tolist()), entropy_bits(ascending), rmse)


@lru_cache(maxsize=64)
def _crest_table(name: str, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    maxima = np.geomspace(0.05, 1000.0, _CREST_POINTS)
    _, error, variance = _cell_integrals(name, maxima)
    energy = maxima**2 + (block_size - 1) * variance
    crest = maxima / np.sqrt(energy / block_size)
    order = np.argsort(crest, kind="stable")
    return crest[order], ((block_size - 1) * error / energy)[order]


def crest_error(name: str, block_size: int, crest: np.ndarray) -> np.ndarray:
    """Expected squared error over energy of blocks whose peak / RMS is `crest`, were they normal inside. Any shape."""
    table = _crest_table(name, block_size)
    return np.interp(crest, *table)
