"""Several runs side by side: what they reached and cost, which settings differ, and whether they may be compared at all. HTML only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.core.units import show_bytes, show_count, show_duration
from studio.jobs.families import family_table
from studio.jobs.metrics import metric_table
from studio.jobs.store import RunRecord
from studio.plots.compare import run_colour
from studio.plots.pareto import RunCost
from studio.ui import markup
from studio.ui.cockpit import FAMILY_TITLES, chip

PATHS_OF_NO_INTEREST = {"name"}


def comparison_html(runs: Sequence[RunRecord]) -> str:
    """Heading, warnings, results."""
    waiting = [run.name for run in runs if not run.status.is_over]
    notes = [markup.notice(text, "warn", "Not the same data.") for text in data_warnings(runs)]
    if waiting:
        notes.append(markup.notice(f"Not over yet: {', '.join(waiting)}. The figures follow as they come.", "info"))
    return f'<div class="run-title"><h2>{len(runs)} runs compared</h2></div>{"".join(notes)}{results_html(runs)}'


def data_warnings(runs: Sequence[RunRecord]) -> list[str]:
    """Why the held-out losses of these runs cannot be compared; empty where they can, or where nothing is known."""
    known = {fingerprint for run in runs if (fingerprint := (run.environment or {}).get("data_fingerprint"))}
    found = []
    if len(known) > 1:
        found.append(
            "These runs were trained and measured on different rows (their data fingerprints differ), so their held-out losses say little "
            "about which is better."
        )
    elif len({_measured_on(run) for run in runs}) > 1:
        found.append(
            "The rows are the same but tokenised or counted differently (another base, length or loss_on), so their losses are on "
            "different scales."
        )
    return found


def _measured_on(run: RunRecord) -> tuple[Any, ...]:
    training = run.spec.training
    return run.spec.model.id, run.spec.data.system_prompt, training.loss_on, training.max_length, training.too_long


def results_html(runs: Sequence[RunRecord]) -> str:
    """One row a run, in its colour."""
    headers = ["run", "method", "held-out loss", "trained", "peak memory", "samples/s", "time", "adapter"]
    rows = []
    for index, (run, row) in enumerate(zip(runs, family_table(runs), strict=True)):
        name = f'<i class="swatch" style="background:{run_colour(index)}"></i>{markup.escape(run.name)} {chip(run.status)}'
        planned = f"<br><small>{show_bytes(row['planned_memory_bytes'])} planned</small>" if row["planned_memory_bytes"] else ""
        rows.append([
            name, FAMILY_TITLES.get(row["family"], row["family"]), _losses(row), _show(row["trainable_parameters"], show_count),
            _show(row["peak_memory_bytes"], show_bytes) + planned, _show(row["samples_per_s"], "{:.3g}".format),
            _show(row["seconds"], show_duration), _show(row["adapter_bytes"], show_bytes),
        ])  # fmt: skip
    return markup.raw_table(headers, rows, "results")


def _losses(row: dict[str, Any]) -> str:
    before, after = row["eval_loss_before"], row["eval_loss_after"]
    if after is None:
        return "–"
    return f"<b>{after:.4f}</b>" + (f"<br><small>{100 * (after / before - 1):+.1f} % from {before:.3f}</small>" if before else "")


def _show(value: Any, show: Any) -> str:
    return "–" if value in (None, 0) else markup.escape(show(value))


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) for the settings that differ; '–' where a run's method has no such setting."""
    flat = [_flat_settings(run.spec.to_json()) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows = [(name, [settings.get(name, "–") for settings in flat]) for name in names if name not in PATHS_OF_NO_INTEREST]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat_settings(spec: dict[str, Any]) -> dict[str, str]:
    found = {}
    for part, value in spec.items():
        for name, item in value.items() if isinstance(value, dict) else ((None, value),):
            found[f"{part}.{name}" if name else part] = _text(item)
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or value == "":
        return "default" if value is None else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def differences_html(runs: Sequence[RunRecord]) -> str:
    """The settings that differ, then where the runs come from."""
    found = differences(runs)
    names = [run.name for run in runs]
    settings = (
        markup.table(["setting", *names], ([name, *values] for name, values in found))
        if found
        else markup.empty("The same settings", "These runs were asked for alike; what differs is chance, or the machine.")
    )
    origin = markup.table(["", *names], provenance(runs))
    return f"{markup.heading('', 'Settings that differ')}{settings}{markup.heading('', 'Where they come from')}{origin}"


def provenance(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Data fingerprint, seed, device, versions and git state, a column a run."""
    environments = [run.environment or {} for run in runs]
    versions = [environment.get("versions") or {} for environment in environments]
    return [
        ["data fingerprint", *[str(environment.get("data_fingerprint") or "–")[:16] for environment in environments]],
        ["seed", *[str(run.spec.training.seed) for run in runs]],
        ["device", *[" ".join(str(e.get(k) or "") for k in ("device", "compute_dtype")).strip() or "–" for e in environments]],
        *[[name, *[str(version.get(name) or "–") for version in versions]] for name in ("torch", "transformers", "peft", "peft-studio")],
        ["git", *[_git(environment) for environment in environments]],
    ]


def _git(environment: dict[str, Any]) -> str:
    git = environment.get("git")
    return f"{str(git.get('commit', ''))[:10]}{' + changes' if git.get('changed') else ''}" if isinstance(git, dict) else "–"


def run_costs(runs: Sequence[RunRecord]) -> list[RunCost]:
    """What the Pareto plot needs; a run still at work counts with its last evaluation."""
    return [_cost(run) for run in runs]


def _cost(run: RunRecord) -> RunCost:
    result = run.result
    if result is not None and result.eval_loss_after is not None:
        return RunCost(run.name, result.eval_loss_after, result.trainable_parameters, result.peak_memory_bytes, result.seconds)
    table = metric_table(run.paths)
    evals, memory = (table.series(name)[1] for name in ("eval_loss", "memory_bytes"))
    parameters = float((run.plan or {}).get("trainable_parameters") or 0)
    return RunCost(run.name, evals[-1] if len(evals) > 1 else None, parameters, max(memory, default=0), run.seconds)
