"""What a merged or fully fine-tuned model changed, W1 - W0: how far every module was moved, and the spectrum of one; DoRA's change too.

The spectrum is by dense SVD in float64, one module at a time. The noise floor is the upper Marchenko-Pastur edge of the noise whose
median singular value is the measured median: sigma (sqrt(m) + sqrt(n)). Assumption: more than half of the directions are noise, such as
the rounding of merged weights to 16 bits, and the change is small beside the weights (rounding grows with a weight, so a change larger
than W gives its own structure to the noise); for full fine-tuning, which moves every direction, the floor is only a mark.
DoRA: W' = magnitude (W + s B A) / ||W + s B A|| per row (arXiv 2402.09353, equation 5).
Source of the median rule: Gavish and Donoho 2014 (arXiv 1305.5870).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from studio.analysis.adapter_files import LoraModule
from studio.analysis.spectrum import Ranks, ranks_of
from studio.analysis.tensors import LinearLayer, open_model, read_linear, read_tensor
from studio.core.errors import AnalysisError


@dataclass(frozen=True)
class DeltaSpectrum:
    """The spectrum of W1 - W0, min(rows, columns) values descending; relative_norm = ||W1 - W0||_F / ||W0||_F, None for W0 = 0."""

    name: str
    rows: int
    columns: int
    singular_values: tuple[float, ...]
    ranks: Ranks
    relative_norm: float | None
    noise_floor: float
    rank_above_noise: int


@dataclass(frozen=True)
class ModuleChange:
    """How far one linear layer was moved: frobenius = ||W1 - W0||_F, relative_norm that over ||W0||_F (None for W0 = 0)."""

    name: str
    stack: str
    layer: int
    module: str
    rows: int
    columns: int
    frobenius: float
    relative_norm: float | None


def module_changes(base: Path, tuned: Path, report: Callable[[int, int], None] = lambda done, every: None) -> tuple[ModuleChange, ...]:
    """Every linear layer's change between two model folders; `report` gets (done, all). Errors: as merged_delta."""
    before, after = (open_model(folder).linear_layers for folder in (base, tuned))
    there = {linear.name: linear for linear in after}
    changes = []
    for linear in before:
        changes.append(_change(*_paired(linear, there.get(linear.name))))
        report(len(changes), len(before))
    return tuple(changes)


def _paired(before: LinearLayer, after: LinearLayer | None) -> tuple[LinearLayer, LinearLayer]:
    """The same layer of both models. Errors: AnalysisError where one lacks it or shapes differ."""
    hint = "Choose a model and the base that it was tuned from."
    if after is None:
        raise AnalysisError(f"Only one of these models has {before.name}.", hint)
    if before.shape != after.shape:
        raise AnalysisError(f"{before.name} is {before.shape} in one model and {after.shape} in the other.", hint)
    return before, after


def _change(before: LinearLayer, after: LinearLayer) -> ModuleChange:
    weight = read_linear(before)
    moved, size = (float(np.linalg.norm(matrix.astype(np.float64))) for matrix in (read_linear(after) - weight, weight))
    if not math.isfinite(moved):
        raise _not_finite(before.name)
    relative = moved / size if size > 0 else None
    return ModuleChange(before.name, before.stack, before.layer, before.module, *before.shape, moved, relative)


def _not_finite(name: str) -> AnalysisError:
    return AnalysisError(f"{name} holds NaN or infinity, so its change has no spectrum.", "Check both models.")


def merged_delta(base: Path, tuned: Path, layer: int, module: str) -> DeltaSpectrum:
    """The change of one linear layer between two model folders. Errors: AnalysisError when they do not match or hold NaN."""
    before, after = _paired(*(open_model(folder).linear(layer, module) for folder in (base, tuned)))
    return delta_spectrum(before.name, read_linear(before), read_linear(after))


def delta_spectrum(name: str, before: np.ndarray, after: np.ndarray) -> DeltaSpectrum:
    """The spectrum of after - before, both (rows, columns)."""
    delta = after.astype(np.float64) - before
    if not np.isfinite(delta).all():
        raise _not_finite(name)
    values = np.linalg.svd(delta, compute_uv=False)
    floor = _dense_noise_floor(values, *delta.shape)
    size = float(np.linalg.norm(before.astype(np.float64)))
    return DeltaSpectrum(
        name=name,
        rows=delta.shape[0],
        columns=delta.shape[1],
        singular_values=tuple(values.tolist()),
        ranks=ranks_of(values),
        relative_norm=float(np.linalg.norm(delta)) / size if size > 0 else None,
        noise_floor=floor,
        rank_above_noise=int((values > floor).sum()),
    )


def dora_delta(module: LoraModule, weight: np.ndarray) -> DeltaSpectrum:
    """What a DoRA module really changes in its base weight (out, in). Errors: AnalysisError when it is no DoRA or does not fit."""
    if module.magnitude is None:
        raise AnalysisError(f"{module.name} is plain LoRA.", "Its spectrum needs no base weight.")
    a, b = module.read()
    if weight.shape != (b.shape[0], a.shape[1]):
        message = f"{module.name} changes a weight of shape {(b.shape[0], a.shape[1])}, but this base has {weight.shape}."
        raise AnalysisError(message, "Choose the base model that the adapter was trained on.")
    direction = weight.astype(np.float64) + module.scaling * (b @ a)
    norm = np.linalg.norm(direction, axis=1)
    if not norm.all():
        raise AnalysisError(f"A row of {module.name} is zero, so DoRA cannot scale it.", "Check the base model.")
    magnitude = read_tensor(module.magnitude).astype(np.float64).reshape(-1)
    return delta_spectrum(module.name, weight, direction * (magnitude / norm)[:, None])


def _dense_noise_floor(values: np.ndarray, rows: int, columns: int) -> float:
    if len(values) == 0 or values[0] <= 0:
        return 0.0
    small, large = min(rows, columns), max(rows, columns)
    beta = small / large
    sigma = float(np.median(values)) / math.sqrt(large * marchenko_pastur_median(beta))
    rounding = float(values[0]) * large * np.finfo(np.float64).eps
    return max(sigma * (math.sqrt(rows) + math.sqrt(columns)), rounding)


@lru_cache(maxsize=256)
def marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio beta in (0, 1] and variance 1: of squared singular values / larger side."""
    angle = np.linspace(0, np.pi, 20_001)
    position = 1 + beta - 2 * math.sqrt(beta) * np.cos(angle)
    density = np.divide(2 * np.sin(angle) ** 2, np.pi * position, out=np.zeros_like(angle), where=position > 1e-15)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.interp(0.5, mass / mass[-1], position))
