"""Block-wise 4-bit and row-wise 8-bit quantization, equal to bitsandbytes' CPU kernels bit for bit.

Each block of consecutive weights (row-major, 64 by default) is multiplied by the reciprocal of its absolute maximum and every
weight takes the code of the nearest level. Double quantization stores the maxima in 8 bits: minus their mean, in blocks of 256,
through a dynamic map. The CPU kernel of that second step looks the code up in 65,536 equal bins, so a value near a boundary may
get the neighbouring code; this module does the same, while a GPU picks the nearest.

What it does not know: the mean of the maxima is summed here in float64 and rounded; torch sums it in float32 in an order of its
own, so the two can differ in the last bit. Give `offset` to reproduce a stored state exactly. bitsandbytes 0.50.2 restores
wrong weights on a CPU with AVX512 when rows are no multiple of the block (below 2048); here a block always runs on into the next row,
which is how the codes were made.
Sources: arXiv 2305.14314 (NF4, double quantization); arXiv 2208.07339 (LLM.int8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from studio.analysis.codebooks import Codebook, dynamic_map
from studio.core.errors import AnalysisError

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SECOND_BLOCK_SIZE = 256
SMALLEST_DIVISOR = np.float32(1e-38)
SMALLEST_ROW_MAXIMUM = np.float32(1e-36)
_BINS_HALF = np.float32(32767.5)


@dataclass(frozen=True)
class BlockCodes:
    """Codes (uint8, one per weight, flat) and block maxima (float32, one per block) of one tensor."""

    codes: np.ndarray
    absmax: np.ndarray
    block_size: int
    codebook: Codebook


@dataclass(frozen=True)
class DoubleQuantized:
    """Block maxima in 8 bits: codes (uint8), the maxima of their own blocks of 256 (float32), and the mean that was taken off."""

    codes: np.ndarray
    absmax: np.ndarray
    offset: np.float32


def check_block_size(block_size: int) -> None:
    if block_size not in BLOCK_SIZES:
        raise AnalysisError(f"A block of {block_size} weights is not possible.", f"Choose one of {', '.join(map(str, BLOCK_SIZES))}.")


def block_absmax(magnitudes: np.ndarray, block_size: int) -> np.ndarray:
    """The maximum of each block of a flat float32 array of absolute values; the last block may be shorter. NaN stays NaN."""
    return np.maximum.reduceat(magnitudes, np.arange(0, magnitudes.size, block_size))


def normalise_blocks(weights: np.ndarray, absmax: np.ndarray, block_size: int, out: np.ndarray) -> np.ndarray:
    """Write weights / absmax of their block into `out` (both flat float32), in [-1, 1]; an all-zero block gives zeros.

    Whole blocks are multiplied by the float32 reciprocal and a shorter last block is divided, as in bitsandbytes.
    """
    whole = weights.size // block_size * block_size
    blocks = whole // block_size
    reciprocal = np.float32(1) / np.maximum(absmax[:blocks], SMALLEST_DIVISOR)
    np.multiply(weights[:whole].reshape(blocks, block_size), reciprocal[:, None], out=out[:whole].reshape(blocks, block_size))
    if whole < weights.size:
        np.divide(weights[whole:], max(absmax[blocks], SMALLEST_DIVISOR), out=out[whole:])
    return np.clip(out, -1, 1, out=out)


def count_ranks(normalised: np.ndarray, boundaries: np.ndarray, ranks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Write into `ranks` (uint8) how many boundaries each value exceeds; return how many values have each rank, int64.

    Fifteen vectorised comparisons beat a binary search per value by far. `mask` is scratch, bool; all arrays of one shape.
    """
    above = np.empty(len(boundaries) + 2, dtype=np.int64)
    above[0], above[-1] = normalised.size, 0
    ranks.fill(0)
    for index, boundary in enumerate(boundaries):
        np.greater(normalised, boundary, out=mask)
        above[index + 1] = np.count_nonzero(mask)
        np.add(ranks, mask.view(np.uint8), out=ranks)
    return above[:-1] - above[1:]


def quantize_blocks(weights: np.ndarray, codebook: Codebook, block_size: int = 64) -> BlockCodes:
    """Quantize a tensor of any shape. Returns flat codes and block maxima. Errors: AnalysisError for NaN, infinity, no weights."""
    check_block_size(block_size)
    flat = np.ascontiguousarray(weights, dtype=np.float32).reshape(-1)
    if flat.size == 0:
        raise AnalysisError("There are no weights to quantize.", "Choose a tensor that holds numbers.")
    absmax = block_absmax(np.abs(flat), block_size)
    check_finite(absmax)
    if flat.size % block_size:
        absmax[-1] = max(absmax[-1], SMALLEST_DIVISOR)
    normalised = normalise_blocks(flat, absmax, block_size, np.empty_like(flat))
    ranks = np.empty(flat.shape, dtype=np.uint8)
    count_ranks(normalised, codebook.boundaries, ranks, np.empty(flat.shape, dtype=bool))
    codes = ranks if codebook.code_is_rank else codebook.order[ranks]
    return BlockCodes(codes, absmax, block_size, codebook)


def check_finite(maxima: np.ndarray, name: str = "This tensor") -> None:
    """Refuse NaN and infinity, which a block maximum carries on. Errors: AnalysisError."""
    if not np.isfinite(maxima).all():
        message = f"{name} holds NaN or infinity, so its quantization means nothing."
        raise AnalysisError(message, "Check the file, or the training that made it.")


def dequantize_blocks(quantized: BlockCodes, absmax: np.ndarray | None = None) -> np.ndarray:
    """level x absmax of every weight, flat float32. Give `absmax` to use maxima that went through double quantization."""
    scale = np.repeat(quantized.absmax if absmax is None else absmax, quantized.block_size)[: quantized.codes.size]
    return quantized.codebook.table[quantized.codes] * scale


def pack_codes(codes: np.ndarray, fill: int = 0) -> np.ndarray:
    """Two codes a byte, the even element in the high nibble; an odd last one is followed by `fill`. uint8, (n + 1) // 2.

    bitsandbytes fills with the code of weight zero (`Codebook.zero_code`).
    """
    even = codes[0::2].astype(np.uint8)
    odd = np.full_like(even, fill)
    odd[: codes.size // 2] = codes[1::2]
    return (even << 4) | odd


def unpack_codes(packed: np.ndarray, count: int) -> np.ndarray:
    """The first `count` codes of packed bytes, uint8."""
    codes = np.empty(packed.size * 2, dtype=np.uint8)
    codes[0::2], codes[1::2] = packed >> 4, packed & 0xF
    return codes[:count]


@lru_cache(maxsize=1)
def _bin_codes() -> np.ndarray:
    table = dynamic_map()
    centres = (np.arange(65536) / 32767.5 - 1).astype(np.float32)
    return np.searchsorted((table[:-1] + table[1:]) / np.float32(2), centres).astype(np.uint8)


def double_quantize(absmax: np.ndarray, offset: float | None = None) -> DoubleQuantized:
    """Store block maxima in 8 bits. `offset` is the mean to take off; by default it is computed. All float32.

    Where what is left of them is too small to divide by, it is taken as zero: all that comes back is the mean.
    """
    mean = np.float32(np.mean(absmax, dtype=np.float64) if offset is None else offset)
    centred = absmax.astype(np.float32) - mean
    maxima = block_absmax(np.abs(centred), SECOND_BLOCK_SIZE)
    with np.errstate(divide="ignore", over="ignore"):
        reciprocal = np.float32(1) / maxima
    # SMALLEST_DIVISOR would be too large: bitsandbytes divides by all maxima whose reciprocal is finite, down to about 3e-39.
    too_small = np.isinf(reciprocal)
    maxima, reciprocal = np.where(too_small, np.float32(0), maxima), np.where(too_small, np.float32(1), reciprocal)
    normalised = centred * np.repeat(reciprocal, SECOND_BLOCK_SIZE)[: centred.size]
    codes = _bin_codes()[((normalised + np.float32(1)) * _BINS_HALF + np.float32(0.5)).astype(np.int32)]
    codes[np.repeat(maxima == 0, SECOND_BLOCK_SIZE)[: centred.size]] = 0
    return DoubleQuantized(codes, maxima, mean)


def double_dequantize(stored: DoubleQuantized) -> np.ndarray:
    """The block maxima that come back, float32, one per block."""
    scale = np.repeat(stored.absmax, SECOND_BLOCK_SIZE)[: stored.codes.size]
    return dynamic_map()[stored.codes] * scale + stored.offset


def quantize_rows(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LLM.int8: each row in steps of its maximum / 127. Returns int8 codes (out, in) and row maxima float32 (out,)."""
    maxima = np.abs(weights).max(axis=1).astype(np.float32)
    check_finite(maxima)
    return np.rint(weights * row_scale(maxima)[:, None]).astype(np.int8), maxima


def row_scale(maxima: np.ndarray) -> np.ndarray:
    """127 / maximum of each row, float32, rounded twice as torch does; rows below 1e-36 get the scale of that, which is finite."""
    return np.float32(1) / np.maximum(maxima, SMALLEST_ROW_MAXIMUM) * np.float32(127)


def dequantize_rows(codes: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """code x row maximum / 127, float32, shape (out, in)."""
    return codes.astype(np.float32) * (maxima / np.float32(127))[:, None]
