"""A whole model under every quantization type: per module and in total, from counted tensors, with a cache.

The model is never loaded: two threads take one tensor each. What is not a linear layer (embeddings, norms, the output head) stays
as it is stored, as in QLoRA, and is counted in the model's bytes. A second look reads the cache: one file for the summary and one
per module, in a folder named after the files' identities (path, size, time of change), the options and this analysis' version.

What it does not know: how much memory a running model needs beyond its weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from studio.analysis.nf4 import measure_linear
from studio.analysis.quantization_info import QuantizationOptions, TensorReport
from studio.analysis.tensors import LinearLayer, ModelFiles, open_model
from studio.core.errors import AnalysisError
from studio.core.files import write_atomic

ANALYSIS_VERSION = 1
THREADS = 2
Result = TypeVar("Result")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModuleError:
    """One type on one module: what the heat map shows."""

    relative_rmse: float
    sqnr_db: float | None
    entropy_bits: float
    predicted_relative_rmse: float | None


@dataclass(frozen=True)
class ModuleSummary:
    """One cell of the heat map. `errors` by type."""

    name: str
    stack: str
    layer: int
    module: str
    rows: int
    columns: int
    excess_kurtosis: float | None
    outlier_column_count: int
    errors: dict[str, ModuleError]


@dataclass(frozen=True)
class TypeTotal:
    """One type on the whole model. Bits are per weight of the linear layers; model bytes include everything else as stored."""

    type: str
    relative_rmse: float
    sqnr_db: float | None
    bits_per_weight: float
    linear_size_bytes: int
    model_size_bytes: int
    times_smaller: float
    times_smaller_than_16_bit: float


@dataclass(frozen=True)
class ModelReport:
    """Every linear layer of a model, and totals by type. `stored_*` is the model as it lies on disk."""

    model: str
    options: QuantizationOptions
    parameters: int
    linear_parameters: int
    stored_size_bytes: int
    stored_linear_size_bytes: int
    modules: tuple[ModuleSummary, ...]
    totals: dict[str, TypeTotal]


def report_model(
    folder: Path, options: QuantizationOptions | None = None, cache: Path | None = None, progress: Progress | None = None
) -> ModelReport:
    """Measure every linear layer of a model folder. `progress` gets (done, all). Errors: as open_model and measure_linear."""
    options = options or QuantizationOptions()
    options.check()
    model = open_model(folder)
    entry = cache / _cache_key(model, options) if cache else None
    cached = _read_cached(entry / "summary.json", ModelReport) if entry else None
    if cached is not None:
        return cached
    linears = model.linear_layers
    if not linears:
        raise AnalysisError("This model has no linear layers in numbered blocks.", "Choose a transformer language model.")
    reports: list[TensorReport] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, report in enumerate(pool.map(lambda linear: measure_linear(linear, options), linears), start=1):
            if entry:
                _write_cached(_module_file(entry, report.weights.name), report)
            reports.append(report)
            if progress:
                progress(done, len(linears))
    summary = _summarise(model, options, list(zip(linears, reports, strict=True)))
    if entry:
        _write_cached(entry / "summary.json", summary)
    return summary


def report_module(
    folder: Path, layer: int, module: str, options: QuantizationOptions | None = None, cache: Path | None = None
) -> TensorReport:
    """Measure one module by layer number and name, such as (0, "q_proj"). Errors: as ModelFiles.linear and measure_linear."""
    options = options or QuantizationOptions()
    options.check()
    model = open_model(folder)
    linear = model.linear(layer, module)
    if cache is None:
        return measure_linear(linear, options)
    file = _module_file(cache / _cache_key(model, options), linear.name)
    report = _read_cached(file, TensorReport)
    if report is None:
        report = measure_linear(linear, options)
        _write_cached(file, report)
    return report


def _summarise(model: ModelFiles, options: QuantizationOptions, measured: list[tuple[LinearLayer, TensorReport]]) -> ModelReport:
    stored = sum(ref.size_bytes for ref in model.tensors.values())
    stored_linear = sum(linear.tensor.size_bytes for linear, _ in measured)
    linear_parameters = sum(linear.tensor.size for linear, _ in measured)
    sizes = (stored, stored_linear, linear_parameters, sum(ref.size for ref in model.tensors.values()))
    return ModelReport(
        model=model.folder.name,
        options=options,
        parameters=sizes[3],
        linear_parameters=linear_parameters,
        stored_size_bytes=stored,
        stored_linear_size_bytes=stored_linear,
        modules=tuple(_module_summary(linear, report) for linear, report in measured),
        totals={name: _total(name, [report for _, report in measured], sizes) for name in options.types},
    )


def _module_summary(linear: LinearLayer, report: TensorReport) -> ModuleSummary:
    errors = {
        name: ModuleError(info.relative_rmse, info.sqnr_db, info.entropy_bits, info.predicted_relative_rmse)
        for name, info in report.types.items()
    }
    weights = report.weights
    return ModuleSummary(
        name=linear.name,
        stack=linear.stack,
        layer=linear.layer,
        module=linear.module,
        rows=weights.rows,
        columns=weights.columns,
        excess_kurtosis=weights.excess_kurtosis,
        outlier_column_count=weights.outlier_column_count,
        errors=errors,
    )


def _total(name: str, reports: Iterable[TensorReport], sizes: tuple[int, int, int, int]) -> TypeTotal:
    infos = [report.types[name] for report in reports]
    energy = math.fsum(info.energy for info in infos)
    rmse = math.sqrt(math.fsum(info.squared_error for info in infos) / energy) if energy > 0 else 0.0
    stored, stored_linear, linear_parameters, parameters = sizes
    linear_bytes = sum(info.size_bytes for info in infos)
    model_bytes = stored - stored_linear + linear_bytes
    return TypeTotal(
        type=name,
        relative_rmse=rmse,
        sqnr_db=-20 * math.log10(rmse) if rmse > 0 else None,
        bits_per_weight=8 * linear_bytes / linear_parameters,
        linear_size_bytes=linear_bytes,
        model_size_bytes=model_bytes,
        times_smaller=stored / model_bytes,
        times_smaller_than_16_bit=2 * parameters / model_bytes,
    )


def _cache_key(model: ModelFiles, options: QuantizationOptions) -> str:
    files = sorted({ref.file for ref in model.tensors.values()})
    identities = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = {"version": ANALYSIS_VERSION, "files": identities, "options": asdict(options), "type": model.config.get("model_type")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def _module_file(entry: Path, name: str) -> Path:
    """Long names are cut and told apart by a hash, so that any file system takes them."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-80:]
    return entry / f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


@lru_cache(maxsize=4)
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read_cached(file: Path, kind: type[Result]) -> Result | None:
    """A cached result, or None when there is none or it was written by something else."""
    try:
        return _adapter(kind).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _write_cached(file: Path, result: Any) -> None:
    write_atomic(file, _adapter(type(result)).dump_json(result).decode())
