"""One matrix rounded to bitsandbytes' NF4 so that what it computes stays close, not each of its weights.

Nearest rounding makes |W - Q|² small. What the model notices is the error of the outputs on inputs X (columns) it really meets,

    |(W - Q) X|² = tr (W - Q) H (W - Q)ᵀ,    H = X Xᵀ,

a sum over rows of the matrix. GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column after the other and corrects the columns
not yet rounded so that they make up for the error: with U the upper Cholesky factor of H⁻¹ (H damped on its diagonal), the error of
column j over U_jj, times row j of U, is taken from the columns to its right. Columns with the largest H_jj, where an error costs
most, come first. The grid is not GPTQ's but the one bitsandbytes finds in the written weights again: 16 NF4 levels times the largest
magnitude of each 64 weights in memory order, that magnitude as it comes back from double quantization (arXiv 2305.14314).

Before that, `make_up` moves the matrix itself: the inputs X̂ that arrive from matrices rounded before are not the X they should be, and
what is wanted is |W X - Q X̂|² (the aim of GPTAQ, arXiv 2504.02692), so the matrix to be rounded is the one that does that best.

For bitsandbytes to find the same grid, one weight of each block has to be ±1 times the magnitude: the one that was the largest, also
where a somewhat smaller magnitude suits the block better (`shrink`).
Magnitudes are rounded to bfloat16, so that they are exact in every dtype. Knows no model: a matrix and its H are all it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from bitsandbytes import functional
from torch import Tensor

BLOCK = 64
DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean: GPTQ's own."""
RIDGE = 0.02
"""The same where the matrix is moved: how much calibration rows are trusted with more than rounding."""
SHARES = tuple(1 - 0.02 * step for step in range(8))
"""Of a block's largest weight, tried as its magnitude."""
LAZY_COLUMNS = 128
"""Columns after which the correction reaches the rest of the matrix, in one product."""
SMALLEST = 1e-38
"""Below it a block's magnitude counts as zero, as in bitsandbytes."""


class Rounded(NamedTuple):
    """fp32 (out, in). `written` is what goes into the file, `read` what bitsandbytes makes of it: what a run multiplies with."""

    written: Tensor
    read: Tensor


class Grid(NamedTuple):
    """Per weight, (out, in): the magnitude of its block as written and as read back, and +1 or -1 where the block's largest weight is."""

    written: Tensor
    read: Tensor
    forced: Tensor


def levels(device: torch.device) -> Tensor:
    """The 16 values of NF4, ascending from -1 to 1."""
    return functional.get_4bit_type("nf4", device=device)


def make_grid(weight: Tensor, double_quantization: bool = True, importance: Tensor | None = None) -> Grid:
    """The grid of a matrix (out, in), fp32. The last block may be shorter, blocks may run over the ends of rows.

    A block's magnitude is its largest weight; with `importance` (in,), H's diagonal, it may be somewhat less, where that makes the errors
    of the others smaller than that of the largest greater.
    """
    size = weight.numel()
    blocks = in_blocks(weight)
    largest, place = blocks.abs().max(dim=1)
    absmax = largest.bfloat16().float()
    if importance is not None:
        absmax = shrink(blocks, absmax, in_blocks(importance.expand_as(weight)))
    # A block of zeros has codes of 0 only, whatever double quantization makes of its magnitude.
    found = torch.where(absmax > 0, read_back(absmax), 0) if double_quantization else absmax
    forced = torch.zeros_like(blocks).scatter_(1, place[:, None], blocks.gather(1, place[:, None]).sign())

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(BLOCK)[:size].reshape(weight.shape)

    return Grid(spread(absmax), spread(found), forced.flatten()[:size].reshape(weight.shape))


def in_blocks(matrix: Tensor) -> Tensor:
    """(blocks, 64), the last one filled up with zeros."""
    return torch.nn.functional.pad(matrix.flatten(), (0, -matrix.numel() % BLOCK)).reshape(-1, BLOCK)


def shrink(blocks: Tensor, absmax: Tensor, importance: Tensor) -> Tensor:
    """Of the SHARES of each block's magnitude (blocks,), the one by which nearest rounding errs least, errors weighted by importance."""
    table, best, lowest = levels(blocks.device), absmax, torch.full_like(absmax, torch.inf)
    for share in SHARES:
        scale = (absmax * share).bfloat16().float()
        rounded = table[choose_codes(blocks, scale[:, None], torch.zeros_like(blocks), table)] * scale[:, None]
        error = ((rounded - blocks).square() * importance).sum(dim=1)
        best, lowest = torch.where(error < lowest, scale, best), torch.minimum(error, lowest)
    return best


def read_back(absmax: Tensor) -> Tensor:
    """Magnitudes (blocks,) as they come back from double quantization: bitsandbytes' 8 bits in groups of 256, less their mean."""
    mean = absmax.mean()
    codes, state = functional.quantize_blockwise(absmax - mean, blocksize=256)
    return functional.dequantize_blockwise(codes, state) + mean


def choose_codes(values: Tensor, scale: Tensor, forced: Tensor, grid: Tensor) -> Tensor:
    """Numbers of the nearest levels (int64); the outermost where forced, that of 0 where nothing else can be said."""
    codes = torch.bucketize((values / scale.clamp(min=SMALLEST)).clamp(-1, 1), (grid[1:] + grid[:-1]) / 2)
    codes = torch.where(scale > SMALLEST, codes, 7)
    return torch.where(forced == 0, codes, torch.where(forced > 0, 15, 0))


def round_nearest(weight: Tensor, grid: Grid) -> Tensor:
    """Codes (out, in) of what bitsandbytes does by itself, on this grid."""
    return choose_codes(weight, grid.written, grid.forced, levels(weight.device))


def round_columns(weight: Tensor, second_moment: Tensor, grid: Grid) -> Tensor:
    """Codes (out, in) by GPTQ. `second_moment` is H, (in, in); an input that is always zero leaves its column to nearest rounding."""
    order = second_moment.diagonal().argsort(descending=True)
    factor = _inverse_factor(second_moment[order][:, order])
    # Columns become rows, which lie together in memory.
    left, scale, forced = (part.t()[order].contiguous() for part in (weight, grid.read, grid.forced))
    table, codes = levels(weight.device), torch.empty_like(left, dtype=torch.long)
    for start in range(0, len(left), LAZY_COLUMNS):
        end = min(start + LAZY_COLUMNS, len(left))
        errors = torch.empty_like(left[start:end])
        for column in range(start, end):
            codes[column] = choose_codes(left[column], scale[column], forced[column], table)
            error = (left[column] - table[codes[column]] * scale[column]) / factor[column, column]
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
            errors[column - start] = error
        left[end:] -= factor[start:end, end:].t() @ errors
    return torch.empty_like(codes).index_copy_(0, order, codes).t()


def _inverse_factor(second_moment: Tensor) -> Tensor:
    """U, upper triangular, with Uᵀ U = (H + damping)⁻¹."""
    damped = second_moment.double()
    silent = damped.diagonal() == 0
    damped.diagonal()[silent] = 1
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def output_errors(weight: Tensor, rounded: Tensor, second_moment: Tensor) -> Tensor:
    """Squared error of each output (out,), summed over the calibration inputs."""
    difference = weight - rounded
    return ((difference @ second_moment) * difference).sum(dim=1)


def make_up(weight: Tensor, second_moment: Tensor, cross_moment: Tensor) -> Tensor:
    """The matrix (out, in) that makes of the inputs X̂ what `weight` makes of X: least squares, held to `weight` by a ridge.

    second_moment: H = X̂ X̂ᵀ; cross_moment: C = X X̂ᵀ. The minimum of |T X̂ - W X|² + r |T - W|² is T = W (C + r 1) (H + r 1)⁻¹.
    """
    held, crossed = second_moment.double(), cross_moment.double()
    ridge = RIDGE * held.diagonal().mean()
    if ridge == 0:
        return weight
    held.diagonal().add_(ridge)
    crossed.diagonal().add_(ridge)
    return torch.cholesky_solve((weight.double() @ crossed).t(), torch.linalg.cholesky(held)).t().float()


def round_matrix(weight: Tensor, second_moment: Tensor, double_quantization: bool = True) -> Rounded:
    """The matrix (out, in), fp32, on the grid; no row's output error on the calibration inputs is above that of nearest rounding there."""
    grid, table = make_grid(weight, double_quantization, second_moment.diagonal()), levels(weight.device)
    nearest, codes = round_nearest(weight, grid), round_columns(weight, second_moment, grid)
    errors = [output_errors(weight, table[chosen] * grid.read, second_moment) for chosen in (nearest, codes)]
    codes = torch.where((errors[1] <= errors[0])[:, None], codes, nearest)
    return Rounded(table[codes] * grid.written, table[codes] * grid.read)
