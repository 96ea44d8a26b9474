"""The laboratories' worker: `python -m studio.analysis [--home HOME]` speaks studio.core.protocol.

model     {model, block_size, double_quant}                -> every linear layer's errors and totals; events "progress" [done, all]
module    {model, layer, module, block_size, double_quant} -> one matrix under every type
spectrum  {adapter, step?}       -> spectra at the snapshot nearest to a step (of the final adapter at or after the last), advice, growth
inside    {adapter, base, layer, module}                   -> amplification, intruder dimensions, and DoRA's whole change
deltas    {base, tuned}                                    -> how far every module of a merged or fully tuned model was moved; "progress"
delta     {base, tuned, layer, module}                     -> the spectrum of one module's change
compare   {first, second, layer, module, kind}             -> subspace similarity with its Gaussian control
insides   {adapter, prompt, base?}                         -> what a prompt does inside a adapter or a prefix; "progress" (a phrase)

An adapter is a run's id or a folder. Answers are kept: models in the home's cache, spectra in this process under their files' times.
`insides` alone loads a model: ask it of a process of its own.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.core.paths import RunPaths, StudioHome
from studio.core.protocol import Call, Handler, serve

KEPT_ANSWERS = 64
_ANSWERS: dict[str, dict[str, Any]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.analysis", description="The worker of the quantization and rank laboratories.")
    parser.add_argument("--home", default=None, help="the studio's home")
    serve(make_handlers(StudioHome.find(parser.parse_args().home)))


def make_handlers(home: StudioHome) -> dict[str, Handler]:
    """The verbs. numpy is imported by the first call, so that the worker answers its start at once."""
    verbs: dict[str, Callable[[Call, StudioHome], Any]] = {
        "model": _model, "module": _module, "spectrum": _spectrum, "inside": _inside, "deltas": _deltas, "delta": _delta,
        "compare": _compare, "insides": _insides,
    }  # fmt: skip
    return {name: functools.partial(_with_home, verb, home) for name, verb in verbs.items()}


def _with_home(verb: Callable[[Call, StudioHome], Any], home: StudioHome, call: Call) -> Any:
    return verb(call, home)


def _options(args: dict[str, Any]) -> Any:
    from studio.analysis.quantization_info import QuantizationOptions

    return QuantizationOptions(block_size=int(args.get("block_size", 64)), double_quant=bool(args.get("double_quant", True)))


def _model(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.jsonable import to_jsonable
    from studio.analysis.locate import model_folder
    from studio.analysis.model_report import report_model

    folder = model_folder(call.args["model"], home)
    report = report_model(folder, _options(call.args), home.cache, lambda done, every: call.emit("progress", [done, every]))
    return to_jsonable(report)


def _module(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.cli import nf4_report
    from studio.analysis.locate import model_folder

    args = call.args
    return nf4_report(model_folder(args["model"], home), int(args["layer"]), args["module"], _options(args), home.cache)


def _spectrum(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.cli import find_adapter
    from studio.analysis.growth import snapshot_folders, step_of
    from studio.analysis.locate import run_or_folder

    folder = run_or_folder(call.args["adapter"], home)
    snapshots = {step_of(path): path for path in snapshot_folders(RunPaths(folder).snapshots)}
    wanted = call.args.get("step")
    earlier = wanted is not None and len(snapshots) > 1 and wanted < max(snapshots)
    chosen = snapshots[min(snapshots, key=lambda step: abs(step - wanted))] if earlier else find_adapter(folder)
    growth = [{"step": step, **_growth_point(path)} for step, path in snapshots.items()]
    return {**_measure(chosen), "growth": growth, "step": step_of(chosen) if chosen in snapshots.values() else None}


def _growth_point(folder: Path) -> dict[str, Any]:
    modules = _measure(folder)["modules"]
    ranks = sorted(module["ranks"]["effective_rank"] for module in modules)
    size = sum(module["ranks"]["frobenius"] ** 2 for module in modules) ** 0.5
    return {"median_effective_rank": ranks[len(ranks) // 2], "update_norm": size}


def _measure(folder: Path) -> dict[str, Any]:
    from studio.analysis.adapter_files import CONFIG, WEIGHTS
    from studio.analysis.advice import advise
    from studio.analysis.jsonable import to_jsonable
    from studio.analysis.spectrum import adapter_spectrum

    def measure() -> dict[str, Any]:
        spectrum = adapter_spectrum(folder)
        return {**to_jsonable(spectrum), "advice": to_jsonable(advise(spectrum))}

    files = [file for file in (folder / WEIGHTS, folder / CONFIG) if file.is_file()]
    return _kept(("spectrum", str(folder), _identity(files)), measure)


def _identity(files: list[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of each: files that changed are other files."""
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _kept(key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer under `key`, made once; the KEPT_ANSWERS asked for last are kept."""
    name = repr(key)
    _ANSWERS[name] = _ANSWERS.pop(name, None) or make()
    if len(_ANSWERS) > KEPT_ANSWERS:
        del _ANSWERS[next(iter(_ANSWERS))]
    return _ANSWERS[name]


def _inside(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.cli import spectrum_report
    from studio.analysis.locate import adapter_folder, model_folder

    args = call.args
    report = spectrum_report(adapter_folder(args["adapter"], home), model_folder(args["base"], home), None, args["layer"], args["module"])
    return {name: report.get(name) for name in ("amplification", "intruders", "dora_delta")}


def _deltas(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.cli import deltas_report

    base, tuned, identity = _pair(call, home)
    return _kept(("deltas", identity), lambda: deltas_report(base, tuned, lambda done, every: call.emit("progress", [done, every])))


def _delta(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.cli import delta_report

    base, tuned, identity = _pair(call, home)
    layer, module = int(call.args["layer"]), str(call.args["module"])
    return _kept(("delta", identity, layer, module), lambda: delta_report(base, tuned, layer, module))


def _pair(call: Call, home: StudioHome) -> tuple[Path, Path, Any]:
    from studio.analysis.locate import model_folder

    base, tuned = (model_folder(call.args[side], home) for side in ("base", "tuned"))
    return base, tuned, [_identity(sorted(folder.glob("*.safetensors"))) for folder in (base, tuned)]


def _compare(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.jsonable import to_jsonable
    from studio.analysis.locate import adapter_folder
    from studio.analysis.subspace import compare_adapters

    args = call.args
    first, second = (adapter_folder(args[side], home) for side in ("first", "second"))
    return to_jsonable(compare_adapters(first, second, args["layer"], args["module"], args.get("kind", "A")))


def _insides(call: Call, home: StudioHome) -> dict[str, Any]:
    from studio.analysis.insides_report import insides_report

    args = call.args
    return insides_report(args["adapter"], args["prompt"], home, args.get("base", ""), lambda phrase: call.emit("progress", phrase))


if __name__ == "__main__":
    main()
