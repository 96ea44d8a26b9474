"""What quantization does to one weight matrix: codes, errors, block maxima, for NF4, FP4, INT4 and INT8 side by side.

The matrix is read in chunks that fit the processor's cache; nothing of its size is kept, only numbers per block and per column.
One pass over rows gives moments, columns and INT8; one over blocks gives the 4-bit types, which share the normalised weights.

What it does not know: what an error means for the model's answers (that is measured with activations, elsewhere).
Definitions: relative RMSE = sqrt(sum (w - w')^2 / sum w^2); SQNR = -20 log10 of it, in dB; the worst block is the one with the
largest sum of squared errors; an outlier column has an RMS above OUTLIER_RATIO times the median column's.
Sources: arXiv 2305.14314 (NF4), arXiv 2208.07339 (INT8 rows, outliers).
"""

from __future__ import annotations

import math

import numpy as np

from studio.analysis.block_pass import BlockSums, RowSums, TypeSums, sum_blocks, sum_rows
from studio.analysis.codebooks import codebook
from studio.analysis.normal_theory import crest_error, entropy_bits, normal_ideal
from studio.analysis.quantization_info import (
    BLOCK_TYPES,
    AbsmaxInfo,
    OutlierColumn,
    QuantizationInfo,
    QuantizationOptions,
    TensorReport,
    WeightInfo,
    WorstBlock,
)
from studio.analysis.quantize import SECOND_BLOCK_SIZE, double_dequantize, double_quantize
from studio.analysis.tensors import LinearLayer, decode, map_tensor
from studio.core.errors import AnalysisError

OUTLIER_RATIO = 3.0
MAX_OUTLIERS = 20
ABSMAX_BINS = 64


def measure_linear(linear: LinearLayer, options: QuantizationOptions | None = None) -> TensorReport:
    """Quantize one linear layer under every chosen type and measure it. Errors: AnalysisError for codes, NaN, infinity, no weights."""
    options = options or QuantizationOptions()
    options.check()
    raw = map_tensor(linear.tensor)
    if linear.transposed:
        raw = np.ascontiguousarray(raw.T)
    return measure_matrix(raw, linear, options)


def measure_matrix(raw: np.ndarray, linear: LinearLayer, options: QuantizationOptions) -> TensorReport:
    """As measure_linear, on raw numbers (out, in) as map_tensor gives them."""
    if raw.size == 0:
        raise AnalysisError(f"{linear.name} holds no weights.", "Choose another module.")

    def read(start: int, stop: int) -> np.ndarray:
        return decode(linear.tensor, flat[start:stop]).astype(np.float32, copy=False)

    flat = raw.reshape(-1)
    rows = sum_rows(read, raw.shape[0], raw.shape[1], linear.name)
    names = tuple(name for name in options.types if name in BLOCK_TYPES)
    blocks = sum_blocks(read, flat.size, options.block_size, names, (rows.mean, rows.std))
    types = {name: _block_info(name, blocks, options, raw.shape[1]) for name in names}
    if "int8" in options.types:
        types["int8"] = _row_info(rows, raw.shape[1])
    return TensorReport(_weight_info(linear, rows, blocks), {name: types[name] for name in options.types})


def _weight_info(linear: LinearLayer, rows: RowSums, blocks: BlockSums) -> WeightInfo:
    outliers = _outlier_columns(rows)
    return WeightInfo(
        name=linear.name,
        layer=linear.layer,
        module=linear.module,
        rows=linear.shape[0],
        columns=linear.shape[1],
        dtype=linear.tensor.dtype,
        mean=rows.mean,
        std=rows.std,
        largest=float(rows.maxima.max()),
        excess_kurtosis=rows.excess_kurtosis,
        ks_distance=_ks_distance(blocks),
        histogram_edges=tuple(np.linspace(-1, 1, len(blocks.histogram) + 1).tolist()),
        histogram_counts=tuple(blocks.histogram.tolist()),
        zero_blocks=int((blocks.absmax == 0).sum()),
        outlier_column_count=len(outliers),
        outlier_columns=tuple(outliers[:MAX_OUTLIERS]),
    )


def _outlier_columns(rows: RowSums) -> list[OutlierColumn]:
    rms = np.sqrt(rows.column_energy / len(rows.maxima))
    median = float(np.median(rms))
    if median == 0:
        return []
    found = np.flatnonzero(rms > OUTLIER_RATIO * median)
    by_size = found[np.argsort(-rms[found], kind="stable")]
    return [OutlierColumn(int(i), float(rms[i] / median), float(rows.column_maxima[i] / median)) for i in by_size]


def _ks_distance(blocks: BlockSums) -> float | None:
    if blocks.standard_counts is None:
        return None
    measured = np.cumsum(blocks.standard_counts) / blocks.standard_counts.sum()
    return float(np.abs(measured - blocks.standard_cdf()).max())


def _block_info(name: str, blocks: BlockSums, options: QuantizationOptions, columns: int) -> QuantizationInfo:
    book, sums, size = codebook(name), blocks.types[name], options.block_size
    absmax = blocks.absmax.astype(np.float64)
    single = absmax**2 * sums.error
    stored = double_quantize(blocks.absmax) if options.double_quant else None
    after = double_dequantize(stored).astype(np.float64) if stored else absmax
    squared = _rescaled_error(sums, absmax, after) if stored else single
    energy = absmax**2 * blocks.energy
    rmse = _relative(squared.sum(), energy.sum())
    ideal = normal_ideal(name, size)
    counts = np.empty_like(sums.counts)
    counts[book.order] = sums.counts
    size_bytes = (blocks.weights + 1) // 2 + _maxima_bytes(len(absmax), options.double_quant)
    return QuantizationInfo(
        type=name,
        block_size=size,
        double_quant=options.double_quant,
        levels=tuple(book.table.tolist()),
        boundaries=tuple(book.boundaries.tolist()),
        code_counts=tuple(counts.tolist()),
        ideal_occupancy=ideal.occupancy,
        entropy_bits=entropy_bits(counts),
        ideal_entropy_bits=ideal.entropy_bits,
        relative_rmse=rmse,
        relative_rmse_single=_relative(single.sum(), energy.sum()),
        ideal_relative_rmse=ideal.relative_rmse,
        predicted_relative_rmse=_predicted(name, size, blocks, energy),
        sqnr_db=_sqnr_db(rmse),
        squared_error=float(squared.sum()),
        energy=float(energy.sum()),
        worst=_worst(squared, energy, blocks.absmax, size, columns),
        absmax=_absmax_info(absmax, after, float(stored.offset) if stored else None),
        size_bytes=size_bytes,
        bits_per_weight=8 * size_bytes / blocks.weights,
    )


def _rescaled_error(sums: TypeSums, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Squared error per block when level q is read back with another maximum: sum (a d + (a - a') q)^2 with d = x - q."""
    change = before - after
    return before**2 * sums.error + 2 * before * change * sums.error_level + change**2 * sums.level


def _predicted(name: str, block_size: int, blocks: BlockSums, energy: np.ndarray) -> float:
    usable = blocks.energy > 0
    crest = 1 / np.sqrt(blocks.energy[usable] / block_size)
    return _relative((crest_error(name, block_size, crest) * energy[usable]).sum(), energy.sum())


def _row_info(rows: RowSums, columns: int) -> QuantizationInfo:
    maxima = rows.maxima.astype(np.float64)
    rmse = _relative(rows.int8_error.sum(), rows.row_energy.sum())
    weights = len(maxima) * columns
    size_bytes = weights + 4 * len(maxima)
    counts = rows.int8_counts
    return QuantizationInfo(
        type="int8",
        block_size=None,
        double_quant=False,
        levels=(),
        boundaries=(),
        code_counts=tuple(counts.tolist()),
        ideal_occupancy=(),
        entropy_bits=entropy_bits(counts),
        ideal_entropy_bits=None,
        relative_rmse=rmse,
        relative_rmse_single=rmse,
        ideal_relative_rmse=None,
        predicted_relative_rmse=None,
        sqnr_db=_sqnr_db(rmse),
        squared_error=float(rows.int8_error.sum()),
        energy=float(rows.row_energy.sum()),
        worst=_worst(rows.int8_error, rows.row_energy, rows.maxima, columns, columns),
        absmax=_absmax_info(maxima, maxima, None),
        size_bytes=size_bytes,
        bits_per_weight=8 * size_bytes / weights,
    )


def _relative(squared_error: float, energy: float) -> float:
    return math.sqrt(max(0.0, float(squared_error)) / float(energy)) if energy > 0 else 0.0


def _sqnr_db(relative_rmse: float) -> float | None:
    return -20 * math.log10(relative_rmse) if relative_rmse > 0 else None


def _worst(squared: np.ndarray, energy: np.ndarray, absmax: np.ndarray, size: int, columns: int) -> WorstBlock | None:
    index = int(np.argmax(squared))
    if squared[index] <= 0:
        return None
    row, column = divmod(index * size, columns)
    return WorstBlock(index, row, column, float(absmax[index]), _relative(squared[index], energy[index]))


def _maxima_bytes(blocks: int, double_quant: bool) -> int:
    return blocks + 4 * math.ceil(blocks / SECOND_BLOCK_SIZE) + 4 if double_quant else 4 * blocks


def _absmax_info(before: np.ndarray, after: np.ndarray, offset: float | None) -> AbsmaxInfo:
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    if high == low:
        high = low + (abs(low) or 1.0)
    edges = np.linspace(low, high, ABSMAX_BINS + 1)
    return AbsmaxInfo(
        smallest=float(before.min()),
        median=float(np.median(before)),
        largest=float(before.max()),
        edges=tuple(edges.tolist()),
        counts_before=tuple(np.histogram(before, edges)[0].tolist()),
        counts_after=tuple(np.histogram(after, edges)[0].tolist()),
        offset=offset,
        relative_rmse=_relative(((before - after) ** 2).sum(), (before**2).sum()),
    )
