"""What low rank buys: a picture rebuilt from few singular values, LoRA's parameters for a layer, and neurons that depend on others.

The best approximation of rank k keeps the k largest singular values (Eckart and Young); each kept one stores a number, a column and a
row, so k (m + n + 1) numbers instead of m n. A colour picture is three matrices.
What it does not know: how good a picture looks; the error is the relative Frobenius norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.core.errors import AnalysisError

MAX_PICTURE_SIDE = 1024
MAX_LAYER_SIDE = 1_000_000


@dataclass(frozen=True)
class PictureFactors:
    """Per channel U (height, k), s (k,), V^T (k, width) of a picture, so that any rank is drawn at once. `colour`: three channels."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray
    colour: bool

    @property
    def full_rank(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True)
class PictureInfo:
    """A picture at one rank: numbers stored against numbers of the whole, relative error, share of energy kept."""

    rank: int
    full_rank: int
    height: int
    width: int
    channels: int
    numbers_stored: int
    numbers_whole: int
    relative_error: float
    energy_kept: float


@dataclass(frozen=True)
class LoraSize:
    """Parameters of LoRA on one layer of `inputs` by `outputs`: A is (r, inputs), B is (outputs, r)."""

    inputs: int
    outputs: int
    r: int
    full: int
    a: int
    b: int
    lora: int
    times_fewer: float


@dataclass(frozen=True)
class NeuronExample:
    """Outputs of a layer whose weight has low rank: which neurons are independent, and how the others follow from them."""

    outputs: int
    inputs: int
    rank: int
    independent: tuple[int, ...]
    dependent: tuple[int, ...]
    coefficients: tuple[tuple[float, ...], ...]
    largest_error: float


def factor_picture(picture: np.ndarray) -> PictureFactors:
    """SVD of a picture (height, width) or (height, width, 3 or 4), any numbers. Errors: AnalysisError for other shapes or sizes."""
    if picture.ndim == 3 and picture.shape[2] in (3, 4):
        channels, colour = np.moveaxis(picture[:, :, :3], 2, 0), True
    elif picture.ndim == 2:
        channels, colour = picture[None], False
    else:
        raise AnalysisError(f"An array of shape {picture.shape} is no picture.", "Choose a grey or a colour picture.")
    if 0 in picture.shape or max(picture.shape[:2]) > MAX_PICTURE_SIDE:
        height, width = picture.shape[:2]
        raise AnalysisError(f"A picture of {height} x {width} cannot be used.", f"Each side takes 1 to {MAX_PICTURE_SIDE} pixels.")
    numbers = channels.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise AnalysisError("The picture holds NaN or infinity.", "Choose another picture.")
    left, values, right = np.linalg.svd(numbers, full_matrices=False)
    return PictureFactors(left, values, right, colour)


def approximate_picture(factors: PictureFactors, rank: int) -> tuple[np.ndarray, PictureInfo]:
    """The picture at `rank` (float64, the shape it came in, not clipped) and its figures. Errors: AnalysisError for other ranks."""
    if not 0 <= rank <= factors.full_rank:
        raise AnalysisError(f"This picture has no rank {rank}.", f"Choose 0 to {factors.full_rank}.")
    channels = (factors.left[:, :, :rank] * factors.values[:, None, :rank]) @ factors.right[:, :rank]
    count, height, width = channels.shape
    energy, lost = float((factors.values**2).sum()), float((factors.values[:, rank:] ** 2).sum())
    info = PictureInfo(
        rank=rank,
        full_rank=factors.full_rank,
        height=height,
        width=width,
        channels=count,
        numbers_stored=count * rank * (height + width + 1),
        numbers_whole=count * height * width,
        relative_error=(lost / energy) ** 0.5 if energy > 0 else 0.0,
        energy_kept=1 - lost / energy if energy > 0 else 1.0,
    )
    return (np.moveaxis(channels, 0, 2) if factors.colour else channels[0]), info


def lora_size(inputs: int, outputs: int, r: int) -> LoraSize:
    """Parameters of a whole layer and of LoRA on it. Errors: AnalysisError for sizes below 1 or beyond a million."""
    for name, value in (("inputs", inputs), ("outputs", outputs), ("r", r)):
        if not 1 <= value <= MAX_LAYER_SIDE:
            raise AnalysisError(f"{name} = {value} is no size of a layer.", f"Choose 1 to {MAX_LAYER_SIDE:,}.")
    a, b = r * inputs, outputs * r
    return LoraSize(inputs, outputs, r, inputs * outputs, a, b, a + b, inputs * outputs / (a + b))


def neuron_example(outputs: int = 100, inputs: int = 64, rank: int = 10, seed: int = 0) -> NeuronExample:
    """A random weight of known rank: `rank` neurons are independent, each other one a sum of them. Errors: AnalysisError."""
    if not 1 <= rank <= min(outputs, inputs) or max(outputs, inputs) > MAX_PICTURE_SIDE:
        message = f"A weight of {outputs} x {inputs} cannot have rank {rank}."
        raise AnalysisError(message, f"Choose a rank from 1 to the smaller side, and sides up to {MAX_PICTURE_SIDE}.")
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((outputs, rank)) @ generator.standard_normal((rank, inputs))
    independent = _independent_rows(weight, rank)
    dependent = [row for row in range(outputs) if row not in independent]
    coefficients = np.linalg.lstsq(weight[independent].T, weight[dependent].T, rcond=None)[0].T
    error = weight[dependent] - coefficients @ weight[independent]
    return NeuronExample(
        outputs=outputs,
        inputs=inputs,
        rank=int(np.linalg.matrix_rank(weight)),
        independent=tuple(independent),
        dependent=tuple(dependent),
        coefficients=tuple(tuple(row) for row in coefficients.tolist()),
        largest_error=float(np.abs(error).max(initial=0.0)),
    )


def _independent_rows(weight: np.ndarray, rank: int) -> list[int]:
    """Rows picked greedily: each the farthest from the span of those before it."""
    rest, chosen = weight.copy(), []
    for _ in range(rank):
        row = int(np.argmax((rest**2).sum(axis=1)))
        chosen.append(row)
        direction = rest[row] / np.linalg.norm(rest[row])
        rest = rest - np.outer(rest @ direction, direction)
    return sorted(chosen)
