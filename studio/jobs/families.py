"""One comparison of the four families: the same base, data, seed and budget, one run each, under one tag.

What stays as asked: data, steps or epochs, batch, length, seed, schedule. What differs: the method, with its own defaults where the spec
names another family; the learning rate, where it was left out or belongs to another family (what suits LoRA teaches a prefix next to
nothing); the base's quantization, which only QLoRA needs. Gradient checkpointing is off for all, because prefixes cannot have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, get_args

from studio.core.errors import SpecError
from studio.core.paths import StudioHome
from studio.core.records import RunNotes
from studio.core.spec import Family, RunSpec
from studio.jobs import runner
from studio.jobs.notes import write_notes
from studio.jobs.queue import TRAIN_MODULE

Plan = Callable[[RunSpec], "dict[str, Any] | None"]
"""Checks a spec against model and machine and gives its plan; raises SpecError."""


def family_variants(spec: RunSpec) -> list[RunSpec]:
    """The spec for LoRA, QLoRA, Adapters and Prefix-Tuning, in that order."""
    return [_variant(spec, family) for family in get_args(Family)]


def _variant(spec: RunSpec, family: str) -> RunSpec:
    data = spec.to_json()
    own = family == spec.method.family
    alike = {family, spec.method.family} <= {"lora", "qlora"}
    stem = spec.name or "methods"
    data["name"] = f"{stem[:90]} · {family}"
    data["method"] = {**data["method"], "family": family} if own or alike else {"family": family}
    if family == "qlora" and data["method"].get("init") in ("pissa", "olora"):
        data["method"]["init"] = "default"
    if not own:
        data["model"]["quantization"] = "auto"
    if not (own or alike):
        data["training"]["learning_rate"] = None
    data["training"]["gradient_checkpointing"] = False
    return RunSpec.parse(data)


def start_family_runs(home: StudioHome, spec: RunSpec, plan: Plan, module: str = TRAIN_MODULE) -> list[str]:
    """Queue the four runs; their ids. Raises SpecError with every family's problems, before any is started."""
    variants, plans, problems = family_variants(spec), [], []
    for variant in variants:
        try:
            plans.append(plan(variant))
        except SpecError as error:
            problems += [f"{variant.method.family}: {problem}" for problem in error.problems]
    if problems:
        raise SpecError(problems)
    tag = f"methods {datetime.now():%Y-%m-%d %H:%M:%S}"
    ids = []
    for variant, planned in zip(variants, plans, strict=True):
        run_id = runner.start_run(home, variant, planned, module)
        write_notes(home, run_id, RunNotes(tags=[tag]))
        ids.append(run_id)
    return ids


def family_table(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Runs (RunRecord) as the rows of one table; None where a figure is not known yet."""
    rows = []
    for run in runs:
        result = run.result
        rows.append({
            "run": run.id, "name": run.name, "family": run.spec.method.family, "status": run.status.value,
            "trainable_parameters": result.trainable_parameters if result else (run.plan or {}).get("trainable_parameters"),
            "peak_memory_bytes": result.peak_memory_bytes if result else None,
            "planned_memory_bytes": (run.plan or {}).get("memory_bytes"),
            "samples_per_s": round(result.samples / result.seconds, 3) if result and result.seconds else None,
            "eval_loss_before": result.eval_loss_before if result else None,
            "eval_loss_after": result.eval_loss_after if result else None,
            "adapter_bytes": result.adapter_bytes if result and result.adapter_bytes else None,
            "seconds": run.seconds or None,
        })  # fmt: skip
    return rows
