"""Which directions two adapters share, and what an update does to directions the base already has.

Similarity phi(i, j) = ||V1_i^T V2_j||_F^2 / min(i, j), where V holds right singular vectors, first i and first j; 1 when the smaller
subspace lies in the larger, about max(i, j) / n for random ones in n dimensions. By default of A, as in the paper; "update" takes
those of dW. A Gaussian control of the same shapes is drawn from a fixed seed.
Amplification: ||dW||_F / ||U^T W V||_F with U, V the singular vectors of dW: how much louder the update makes what W barely uses.
Intruder dimensions: left singular vectors of W + dW whose best |cosine| with every left singular vector of W stays under 0.5.

What it does not know: whether a shared direction matters for the task.
Sources: arXiv 2106.09685, equation 4 and table 7; arXiv 2410.21228 (intruder dimensions).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studio.analysis.adapter_files import LoraModule, open_adapter
from studio.analysis.spectrum import factored_svd
from studio.core.errors import AnalysisError

INTRUDER_COSINE = 0.5
INTRUDER_TOP = 10


@dataclass(frozen=True)
class SubspaceSimilarity:
    """phi as rows i = 1..r1 by columns j = 1..r2, each 0 to 1; `control` is the same for random matrices; None where undefined."""

    module: str
    kind: str
    r1: int
    r2: int
    dimension: int
    phi: tuple[tuple[float, ...], ...]
    control: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Amplification:
    """Frobenius norms. Each `projected_*` is ||U^T W V||_F with the top r singular vectors of dW, of W, and random ones."""

    module: str
    r: int
    update_norm: float
    weight_norm: float
    projected_by_update: float
    projected_by_weight: float
    projected_by_random: float
    factor: float | None


@dataclass(frozen=True)
class Intruder:
    """A new direction: its place among the singular vectors of W + dW (0 is the strongest), value, and best |cosine| with W's."""

    index: int
    singular_value: float
    best_cosine: float


@dataclass(frozen=True)
class IntruderReport:
    """Best |cosine| of each of the strongest directions of W + dW, and those among them that intrude."""

    module: str
    threshold: float
    best_cosines: tuple[float, ...]
    intruders: tuple[Intruder, ...]


def subspace_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """phi for orthonormal columns V1 (n, r1) and V2 (n, r2), shape (r1, r2)."""
    overlap = np.cumsum(np.cumsum((first.T @ second) ** 2, axis=0), axis=1)
    smaller = np.minimum.outer(np.arange(1, first.shape[1] + 1), np.arange(1, second.shape[1] + 1))
    return np.clip(overlap / smaller, 0, 1)


def compare_adapters(first: Path, second: Path, layer: int | None, module: str, kind: str = "A") -> SubspaceSimilarity:
    """phi between one module of two adapters (two runs, ranks or seeds). kind: "A" or "update". Errors: AnalysisError."""
    modules = tuple(open_adapter(folder).module(layer, module) for folder in (first, second))
    bases = [_right_vectors(item, kind) for item in modules]
    if bases[0].shape[0] != bases[1].shape[0]:
        message = f"{module} has {bases[0].shape[0]} inputs in one adapter and {bases[1].shape[0]} in the other."
        raise AnalysisError(message, "Compare adapters of the same base model.")
    generator = np.random.default_rng(0)
    random = [_orthonormal(generator.standard_normal(basis.shape)) for basis in bases]
    return SubspaceSimilarity(
        module=modules[0].name,
        kind=kind,
        r1=bases[0].shape[1],
        r2=bases[1].shape[1],
        dimension=bases[0].shape[0],
        phi=_rows(subspace_similarity(*bases)),
        control=_rows(subspace_similarity(*random)),
    )


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.qr(matrix)[0]


def _right_vectors(module: LoraModule, kind: str) -> np.ndarray:
    a, b = module.read()
    if kind not in ("A", "update"):
        raise AnalysisError(f"There are no singular vectors of {kind!r}.", 'Choose "A" or "update".')
    if kind == "A":
        _, values, vt = np.linalg.svd(a, full_matrices=False)
        vectors = vt.T
    else:
        svd = factored_svd(a, b, module.scaling)
        values, vectors = svd.values, svd.right
    kept = values > 1e-12 * values[0] if values[0] > 0 else np.zeros(len(values), dtype=bool)
    if not kept.any():
        raise AnalysisError(f"{module.name} is zero in one adapter, so it spans no directions.", "Compare adapters after training.")
    return vectors[:, kept]


def amplification(module: LoraModule, weight: np.ndarray) -> Amplification:
    """The paper's table 7 for one module and its base weight (out, in). Errors: AnalysisError when the shapes do not fit."""
    a, b = module.read()
    weight = _fitting(module, weight, (b.shape[0], a.shape[1]))
    svd = factored_svd(a, b, module.scaling)
    r = len(svd.values)
    update = float(np.sqrt((svd.values**2).sum()))
    generator = np.random.default_rng(0)
    random_left, random_right = (_orthonormal(generator.standard_normal((side, r))) for side in weight.shape)
    projected = float(np.linalg.norm(svd.left.T @ weight @ svd.right))
    return Amplification(
        module=module.name,
        r=r,
        update_norm=update,
        weight_norm=float(np.linalg.norm(weight)),
        projected_by_update=projected,
        projected_by_weight=float(np.sqrt(_gram_eigenvalues(weight)[:r].sum())),
        projected_by_random=float(np.linalg.norm(random_left.T @ weight @ random_right)),
        factor=update / projected if projected > 0 and update > 0 else None,
    )


def _fitting(module: LoraModule, weight: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if weight.shape != shape:
        message = f"{module.name} changes a weight of shape {shape}, but this base has {weight.shape}."
        raise AnalysisError(message, "Choose the base model that the adapter was trained on.")
    return weight.astype(np.float64)


def _gram_eigenvalues(weight: np.ndarray) -> np.ndarray:
    """Squared singular values, descending: accurate for the large ones, which are all that is summed here."""
    small = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return np.maximum(np.linalg.eigvalsh(small @ small.T)[::-1], 0)


def _left_vectors(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (out, k) and values (k,) descending, without those of value zero; through the smaller Gram matrix."""
    tall = weight.shape[0] > weight.shape[1]
    squared, vectors = np.linalg.eigh(weight.T @ weight if tall else weight @ weight.T)
    values, vectors = np.sqrt(np.maximum(squared[::-1], 0)), vectors[:, ::-1]
    kept = values > 1e-7 * values[0] if values[0] > 0 else np.zeros(len(values), dtype=bool)
    values, vectors = values[kept], vectors[:, kept]
    return (weight @ vectors / values if tall else vectors), values


def intruder_dimensions(module: LoraModule, weight: np.ndarray, top: int = INTRUDER_TOP) -> IntruderReport:
    """Which of the `top` strongest directions of W + dW are new. Time grows with the cube of the smaller side of W."""
    a, b = module.read()
    weight = _fitting(module, weight, (b.shape[0], a.shape[1]))
    before, _ = _left_vectors(weight)
    after, values = _left_vectors(weight + module.scaling * (b @ a))
    if before.shape[1] == 0:
        raise AnalysisError(f"The base weight of {module.name} is zero, so it has no directions.", "Choose another module.")
    cosines = np.abs(before.T @ after[:, :top]).max(axis=0)
    found = np.flatnonzero(cosines < INTRUDER_COSINE)
    return IntruderReport(
        module=module.name,
        threshold=INTRUDER_COSINE,
        best_cosines=tuple(np.minimum(cosines, 1.0).tolist()),
        intruders=tuple(Intruder(int(i), float(values[i]), float(cosines[i])) for i in found),
    )
