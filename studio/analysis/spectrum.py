"""Singular values of what LoRA adds, dW = s B A, without forming dW; and what they say about the rank that was used.

Thin QR of both factors, B = Qb Rb and A^T = Qa Ra, leaves an r x r problem: SVD(Rb Ra^T) = U S V^T, so
dW = (Qb U)(s S)(Qa V)^T. In float64 this is exact to rounding. For values alone only Rb and Ra are needed.

Ranks of singular values s_1 >= s_2 >= ...: effective exp(-sum p ln p) with p = s / sum s; stable sum s^2 / s_1^2; energy rank, the
least k whose squares hold a share q of the sum. An update of zero has ranks 0.

The noise floor. Model: A and B have independent entries of one variance each (nothing learned), so the values of their product lie
below F / sqrt(r) (1 + sqrt(r / out)) (1 + sqrt(r / in)), the product of the two Marchenko-Pastur edges, F being the Frobenius norm.
The largest value is taken off while it exceeds the edge of what remains; the last edge is the floor. Assumptions: the edges are
those of large matrices; values above the floor are not explained by such noise, which does not prove they are useful; an update
that uses all r directions equally looks like noise here though it is not.
Sources: arXiv 2106.09685 section 7; Roy and Vetterli 2007 (effective rank); Marchenko and Pastur 1967.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studio.analysis.adapter_files import LoraModule, open_adapter

ENERGY_SHARE = 0.9
THREADS = 2
SHORTEST_BLOCK = 128
Edge = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Ranks:
    """Frobenius norm, largest value, and ranks of a list of singular values; energy_rank holds ENERGY_SHARE of the squares."""

    frobenius: float
    largest: float
    effective_rank: float
    stable_rank: float
    energy_rank: int


@dataclass(frozen=True)
class ModuleSpectrum:
    """The spectrum of one module's scaled update, values descending; r of them for LoRA."""

    name: str
    layer: int | None
    module: str
    rows: int
    columns: int
    r: int
    scaling: float
    dora: bool
    singular_values: tuple[float, ...]
    ranks: Ranks
    noise_floor: float
    rank_above_noise: int


@dataclass(frozen=True)
class AdapterSpectrum:
    """All modules of an adapter."""

    adapter: str
    base_model: str
    r: int
    alpha: float
    rslora: bool
    dora: bool
    modules: tuple[ModuleSpectrum, ...]


@dataclass(frozen=True)
class FactoredSvd:
    """dW = left diag(values) right^T: left (out, k), values (k,) descending, right (in, k), float64."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


def factored_svd(a: np.ndarray, b: np.ndarray, scaling: float) -> FactoredSvd:
    """SVD of scaling B A from A (r, in) and B (out, r)."""
    qb, rb = np.linalg.qr(b)
    qa, ra = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(rb @ ra.T)
    sign = 1.0 if scaling >= 0 else -1.0
    count = len(s)
    return FactoredSvd(qb @ u[:, :count] * sign, abs(scaling) * s, qa @ vt[:count].T)


def factored_values(a: np.ndarray, b: np.ndarray, scaling: float) -> np.ndarray:
    """Singular values of scaling B A, descending, min(r, in, out) of them."""
    return abs(scaling) * np.linalg.svd(_triangle(b) @ _triangle(a.T).T, compute_uv=False)


def _triangle(tall: np.ndarray) -> np.ndarray:
    """R of the QR of a tall matrix (m, n), by QR of stacks of short blocks, then of their R's.

    Blocks this short stay on one thread in OpenBLAS, whose own threads wait for each other so badly on a busy machine that the whole
    is dozens of times slower. Different signs of R's rows do not change the singular values.
    """
    columns = tall.shape[1]
    block = max(SHORTEST_BLOCK, 2 * columns)
    while tall.shape[0] > block:
        whole = tall.shape[0] // block * block
        stack = np.linalg.qr(tall[:whole].reshape(-1, block, columns), mode="r").reshape(-1, columns)
        tall = np.concatenate([stack, tall[whole:]])
    return np.linalg.qr(tall, mode="r")


def ranks_of(values: np.ndarray, share: float = ENERGY_SHARE) -> Ranks:
    """Norms and ranks of singular values in descending order; all zero for an update of zero."""
    largest = float(values[0]) if len(values) else 0.0
    if largest <= 0:
        return Ranks(0.0, 0.0, 0.0, 0.0, 0)
    relative = values / largest
    p = relative[relative > 0] / relative.sum()
    energy = np.cumsum(relative**2)
    return Ranks(
        frobenius=largest * float(np.sqrt(energy[-1])),
        largest=largest,
        effective_rank=float(np.exp(-(p * np.log(p)).sum())),
        stable_rank=float(energy[-1]),
        energy_rank=int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12))) + 1,
    )


def product_noise_floor(values: np.ndarray, rows: int, columns: int) -> tuple[float, int]:
    """The floor of the module's docstring and how many values exceed it; (0, 0) for an update of zero."""

    def edge(rest: np.ndarray) -> float:
        r = len(rest)
        return float(np.sqrt((rest**2).sum() / r) * (1 + np.sqrt(r / rows)) * (1 + np.sqrt(r / columns)))

    return _peel(values, edge)


def _peel(values: np.ndarray, edge: Edge) -> tuple[float, int]:
    if len(values) == 0 or values[0] <= 0:
        return 0.0, 0
    above = 0
    while above < len(values) - 1 and values[above] > edge(values[above:]):
        above += 1
    return edge(values[above:]), above


def module_spectrum(module: LoraModule) -> ModuleSpectrum:
    """Read one module and measure it. Errors: AnalysisError for NaN or infinity."""
    a, b = module.read()
    values = factored_values(a, b, module.scaling)
    floor, above = product_noise_floor(values, b.shape[0], a.shape[1])
    return ModuleSpectrum(
        name=module.name,
        layer=module.layer,
        module=module.module,
        rows=b.shape[0],
        columns=a.shape[1],
        r=module.r,
        scaling=module.scaling,
        dora=module.dora,
        singular_values=tuple(values.tolist()),
        ranks=ranks_of(values),
        noise_floor=floor,
        rank_above_noise=above,
    )


def adapter_spectrum(folder: Path) -> AdapterSpectrum:
    """The spectra of every module of a LoRA adapter folder. Errors: as open_adapter and module_spectrum."""
    adapter = open_adapter(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        spectra = tuple(pool.map(module_spectrum, adapter.modules))
    return AdapterSpectrum(
        adapter=adapter.folder.name,
        base_model=adapter.base_model,
        r=adapter.r,
        alpha=adapter.alpha,
        rslora=adapter.rslora,
        dora=adapter.dora,
        modules=spectra,
    )
