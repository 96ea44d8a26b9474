"""The levels that 4-bit types can store, in the order of their codes.

A code book maps a code 0..15 to a level in [-1, 1]; a weight is stored as the code of its nearest level, times the absolute
maximum of its block. Boundaries are the midpoints of neighbouring levels in float32; a value exactly on a boundary goes to
the lower level, as in bitsandbytes.

Sources: NF4 is QLoRA (arXiv 2305.14314, section 3 and appendix E); FP4 is bitsandbytes' own 4-bit float (1 sign, 2 exponent,
1 mantissa bit, 12 scaled to 1); the teaching code book belongs to the lecture and is no real NF4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist

import numpy as np

from studio.core.errors import AnalysisError

NF4_TABLE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
TEACHING_TABLE = (-1.51, -1.14, -0.91, -0.76, -0.59, -0.44, -0.30, -0.18, -0.06, 0.06, 0.18, 0.30, 0.44, 0.59, 0.76, 1.00)
NF4_OFFSET = 0.9677083


@dataclass(frozen=True)
class Codebook:
    """Levels in code order. `levels[code]` is what the code stands for, in units of the block's absolute maximum."""

    name: str
    levels: tuple[float, ...]

    @cached_property
    def table(self) -> np.ndarray:
        """Levels in code order, float32, shape (codes,)."""
        return np.array(self.levels, dtype=np.float32)

    @cached_property
    def order(self) -> np.ndarray:
        """Codes by ascending level, uint8, shape (codes,); equal levels (FP4's two zeros) by ascending code, as bitsandbytes does."""
        return np.argsort(self.table, kind="stable").astype(np.uint8)

    @cached_property
    def ascending(self) -> np.ndarray:
        """Levels from low to high, float32, shape (codes,)."""
        return self.table[self.order]

    @cached_property
    def boundaries(self) -> np.ndarray:
        """Decision boundaries between ascending levels, float32, shape (codes - 1,)."""
        return (self.ascending[:-1] + self.ascending[1:]) / np.float32(2)

    @cached_property
    def zero_code(self) -> int:
        """The code that a weight of zero takes."""
        return int(self.order[np.searchsorted(self.boundaries, np.float32(0))])

    @cached_property
    def code_is_rank(self) -> bool:
        return bool(np.array_equal(self.order, np.arange(len(self.levels))))


def generate_nf4(offset: float = NF4_OFFSET) -> tuple[float, ...]:
    """NF4's levels from quantiles of N(0, 1): 8 negative, zero, and 8 positive ones, divided by the largest. `offset` in (0.5, 1)."""
    quantile = NormalDist().inv_cdf
    positive = [quantile(float(p)) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-quantile(float(p)) for p in np.linspace(offset, 0.5, 8)[:-1]]
    return tuple(level / max(positive) for level in sorted([*negative, 0.0, *positive]))


@lru_cache(maxsize=1)
def codebooks() -> dict[str, Codebook]:
    """The code books by name: nf4, fp4, int4 (symmetric: -7..7 in sevenths, so 15 levels) and teaching (the lecture's)."""
    fp4 = tuple(sign * magnitude / 12.0 for sign in (1.0, -1.0) for magnitude in FP4_MAGNITUDES)
    books = {
        "nf4": NF4_TABLE,
        "fp4": fp4,
        "int4": tuple(step / 7.0 for step in range(-7, 8)),
        "teaching": TEACHING_TABLE,
    }
    return {name: Codebook(name, levels) for name, levels in books.items()}


def codebook(name: str) -> Codebook:
    """The code book of that name. Errors: AnalysisError."""
    known = codebooks()
    if name not in known:
        raise AnalysisError(f"There is no code book {name!r}.", f"Choose one of {', '.join(known)}.")
    return known[name]


@lru_cache(maxsize=1)
def dynamic_map() -> np.ndarray:
    """bitsandbytes' signed dynamic 8-bit map that stores block maxima, ascending, float32, shape (256,).

    Seven decades, each with twice the fractions of the decade below; it is not an IEEE 8-bit float. Source: Dettmers,
    arXiv 1511.04561, as bitsandbytes builds it.
    """
    values: list[float] = [0.0, 1.0]
    for decade in range(7):
        edges = _float32_steps(2**decade + 1)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = (np.float32(10.0 ** (decade - 6)) * means).astype(np.float32)
        values += [*scaled.tolist(), *(-scaled).tolist()]
    return np.sort(np.array(values, dtype=np.float32))


def _float32_steps(count: int) -> np.ndarray:
    """`count` float32 numbers from 0.1 to 1, each counted from the nearer end and rounded once, as torch.linspace does."""
    first, last = np.float32(0.1), np.float32(1)
    step = float((last - first) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    return np.where(index < count // 2, float(first) + step * index, float(last) - step * index[::-1]).astype(np.float32)
