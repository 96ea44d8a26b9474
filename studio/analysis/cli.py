"""The reports of the command line's `nf4` and `spectrum`, as JSON-able dicts; no printing and no parsing of arguments here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.analysis.adapter_files import CONFIG, open_adapter
from studio.analysis.advice import advise
from studio.analysis.deltas import dora_delta, merged_delta, module_changes
from studio.analysis.growth import snapshot_folders, spectrum_growth
from studio.analysis.jsonable import to_jsonable
from studio.analysis.model_report import report_model, report_module
from studio.analysis.quantization_info import QuantizationOptions
from studio.analysis.spectrum import AdapterSpectrum, adapter_spectrum
from studio.analysis.subspace import amplification, compare_adapters, intruder_dimensions
from studio.analysis.tensors import describe_model, open_model, read_linear
from studio.core.errors import AnalysisError
from studio.core.paths import RunPaths


def nf4_report(
    model_folder: Path, layer: int, module: str, options: QuantizationOptions | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """One module under every type. `code_counts` at the top level are NF4's sixteen (of the first type where NF4 is left out)."""
    report = report_module(model_folder, layer, module, options, cache)
    first = report.types.get("nf4") or next(iter(report.types.values()))
    return {"type": first.type, "code_counts": list(first.code_counts), **to_jsonable(report)}


def nf4_model_report(model_folder: Path, options: QuantizationOptions | None = None, cache: Path | None = None) -> dict[str, Any]:
    """The whole model: every linear layer's errors, totals by type, and what the headers say."""
    return {"description": to_jsonable(describe_model(model_folder)), **to_jsonable(report_model(model_folder, options, cache))}


def find_adapter(folder: Path) -> Path:
    """The adapter folder meant by a run folder or an adapter folder. Errors: AnalysisError for a run that saved none."""
    folder = Path(folder)
    run = RunPaths(folder)
    if (folder / CONFIG).is_file() or not (run.spec.is_file() or run.adapter.is_dir()):
        return folder
    if (run.adapter / CONFIG).is_file():
        return run.adapter
    snapshots = snapshot_folders(run.snapshots)
    if snapshots:
        return snapshots[-1]
    raise AnalysisError(f"The run {folder.name} saved no adapter.", "It may have stopped before its first step: train it again.")


def spectrum_report(
    adapter_folder: Path,
    base_folder: Path | None = None,
    other_folder: Path | None = None,
    layer: int | None = None,
    module: str | None = None,
) -> dict[str, Any]:
    """Spectra of a run or adapter folder, with advice and growth over its snapshots.

    With `module` (and `layer` where it repeats) only that module is listed; then `base_folder` adds amplification and intruder
    dimensions, and for DoRA its whole change; `other_folder` adds the subspace similarity with another adapter.
    """
    folder = find_adapter(adapter_folder)
    spectrum = adapter_spectrum(folder)
    report: dict[str, Any] = {**to_jsonable(spectrum), "advice": to_jsonable(advise(spectrum)), "growth": _growth(Path(adapter_folder))}
    if module is None:
        if base_folder or other_folder:
            raise AnalysisError("A base or another adapter is compared one module at a time.", "Name a layer and a module.")
        return report
    chosen = open_adapter(folder).module(layer, module)
    report["modules"] = [item for item in report["modules"] if item["name"] == chosen.name]
    if base_folder:
        linear = open_model(base_folder).linear(-1 if chosen.layer is None else chosen.layer, chosen.name)
        weight = read_linear(linear)
        report["amplification"] = to_jsonable(amplification(chosen, weight))
        report["intruders"] = to_jsonable(intruder_dimensions(chosen, weight))
        if chosen.dora:
            report["dora_delta"] = to_jsonable(dora_delta(chosen, weight))
    if other_folder:
        report["similarity"] = to_jsonable(compare_adapters(folder, find_adapter(other_folder), layer, module))
    return report


def delta_report(base_folder: Path, tuned_folder: Path, layer: int, module: str) -> dict[str, Any]:
    """The spectrum of one module's change between a base model and a merged or fully tuned one."""
    return to_jsonable(merged_delta(base_folder, tuned_folder, layer, module))


def deltas_report(base_folder: Path, tuned_folder: Path, report: Callable[[int, int], None] = lambda done, every: None) -> dict[str, Any]:
    """How far every linear layer of a merged or fully tuned model lies from its base. `report` gets (done, all)."""
    changes = module_changes(base_folder, tuned_folder, report)
    return {"base": base_folder.name, "tuned": tuned_folder.name, "modules": to_jsonable(changes)}


def _growth(folder: Path) -> list[dict[str, Any]]:
    """Median effective rank and whole size of the update at each snapshot of a run; empty without snapshots."""
    folders = snapshot_folders(RunPaths(folder).snapshots)
    if not folders:
        return []
    growth = spectrum_growth(folders)
    return [_growth_point(step, spectrum) for step, spectrum in zip(growth.steps, growth.spectra, strict=True)]


def _growth_point(step: int, spectrum: AdapterSpectrum) -> dict[str, Any]:
    ranks = sorted(module.ranks.effective_rank for module in spectrum.modules)
    size = sum(module.ranks.frobenius**2 for module in spectrum.modules) ** 0.5
    return to_jsonable({"step": step, "median_effective_rank": ranks[len(ranks) // 2], "update_norm": size})
