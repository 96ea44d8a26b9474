"""Results of quantizing one weight matrix, as plain frozen dataclasses that JSON can hold.

Relative RMSE = sqrt(sum (w - w')^2 / sum w^2), SQNR = -20 log10 of it in dB; both are of the values that would really be read back,
so with double quantization where that is on. None means that a figure does not apply or would divide by zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.analysis.quantize import check_block_size
from studio.core.errors import AnalysisError

BLOCK_TYPES = ("nf4", "fp4", "int4")
QUANTIZATION_TYPES = (*BLOCK_TYPES, "int8")


@dataclass(frozen=True)
class QuantizationOptions:
    """Which types to measure, weights per block, and whether block maxima are stored in 8 bits."""

    types: tuple[str, ...] = QUANTIZATION_TYPES
    block_size: int = 64
    double_quant: bool = True

    def check(self) -> None:
        check_block_size(self.block_size)
        unknown = [name for name in self.types if name not in QUANTIZATION_TYPES]
        if unknown or not self.types:
            named = f"no quantization type {unknown[0]!r}" if unknown else "no quantization type chosen"
            raise AnalysisError(f"There is {named}.", f"Choose from {', '.join(QUANTIZATION_TYPES)}.")


@dataclass(frozen=True)
class OutlierColumn:
    """An input whose weights are large: its RMS and its largest magnitude, as multiples of the median column's RMS."""

    column: int
    rms_ratio: float
    peak_ratio: float


@dataclass(frozen=True)
class WeightInfo:
    """The weights themselves. Histogram of weights divided by their block's maximum, over [-1, 1]; normality of the whole.

    ks_distance: largest gap between the weights' distribution and the normal one of their mean and deviation (0 to 1).
    excess_kurtosis: 0 for a normal distribution, positive for heavy tails; None where all weights are equal.
    """

    name: str
    layer: int
    module: str
    rows: int
    columns: int
    dtype: str
    mean: float
    std: float
    largest: float
    excess_kurtosis: float | None
    ks_distance: float | None
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    zero_blocks: int
    outlier_column_count: int
    outlier_columns: tuple[OutlierColumn, ...]


@dataclass(frozen=True)
class AbsmaxInfo:
    """Block maxima before and after 8-bit storage on the same edges. relative_rmse compares the two; 0 without double quantization."""

    smallest: float
    median: float
    largest: float
    edges: tuple[float, ...]
    counts_before: tuple[int, ...]
    counts_after: tuple[int, ...]
    offset: float | None
    relative_rmse: float


@dataclass(frozen=True)
class WorstBlock:
    """The block (or the row, for INT8) with the largest squared error: where it starts, its peak and its own relative RMSE."""

    index: int
    row: int
    column: int
    absmax: float
    relative_rmse: float


@dataclass(frozen=True)
class QuantizationInfo:
    """One type on one matrix. Codes in code order; INT8 counts its 255 steps from -127. None: that theory does not apply."""

    type: str
    block_size: int | None
    double_quant: bool
    levels: tuple[float, ...]
    boundaries: tuple[float, ...]
    code_counts: tuple[int, ...]
    ideal_occupancy: tuple[float, ...]
    entropy_bits: float
    ideal_entropy_bits: float | None
    relative_rmse: float
    relative_rmse_single: float
    ideal_relative_rmse: float | None
    predicted_relative_rmse: float | None
    sqnr_db: float | None
    squared_error: float
    energy: float
    worst: WorstBlock | None
    absmax: AbsmaxInfo
    size_bytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class TensorReport:
    """Everything measured on one matrix; `types` by name (nf4, fp4, int4, int8)."""

    weights: WeightInfo
    types: dict[str, QuantizationInfo] = field(default_factory=dict)
