"""One run as a person reads it: the list's rows, the header with its progress, the sample answers, the settings. HTML only, no widgets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from studio.core.files import read_lines
from studio.core.paths import RunPaths
from studio.core.records import RunResult, RunStatus, StepRecord, whole
from studio.core.spec import RunSpec
from studio.core.units import show_bytes, show_count, show_duration, show_share
from studio.jobs.store import RunRecord
from studio.ui import markup
from studio.ui.runs_advice import find_warnings, planned_memory_note

FAMILY_TITLES = {"lora": "LoRA", "qlora": "QLoRA", "adapter": "Adapter", "prefix": "Prefix"}
STATUS_WORDS = {
    RunStatus.QUEUED: "waiting", RunStatus.RUNNING: "running", RunStatus.STOPPING: "saving", RunStatus.FINISHED: "finished",
    RunStatus.STOPPED: "stopped", RunStatus.CANCELLED: "cancelled", RunStatus.FAILED: "failed", RunStatus.LOST: "lost",
    RunStatus.UNREADABLE: "unreadable",
}  # fmt: skip
STATUS_HELP = {
    RunStatus.QUEUED: "It starts as soon as the run before it ends.",
    RunStatus.LOST: "Its process ended without a word: it was killed, or the machine went down. What it had saved is kept; Resume goes on "
    "from the last checkpoint.",
    RunStatus.UNREADABLE: "Its result.json holds values that no run writes; the figures here are those of its curve. "
    "Delete moves the run to the trash.",
    RunStatus.CANCELLED: "Nothing was kept but the settings, the curve and the log.",
    RunStatus.STOPPED: "Stopped on request; the adapter as it was then is saved and can be used.",
}


def chip(status: RunStatus) -> str:
    return f'<span class="chip {status.value}">{STATUS_WORDS[status]}</span>'


def header_html(record: RunRecord, records: Sequence[StepRecord], place: tuple[int, int] | None = None) -> str:
    """Name, status, progress with the time left, what the curve warns of, and the run's figures.

    `place`: a waiting run's number in the queue, from 1, and how many wait.
    """
    spec = record.spec
    facts = " · ".join([FAMILY_TITLES[spec.method.family], _last_part(spec.model.id), _last_part(spec.data.source)])
    title = f'<div class="run-title"><h2>{markup.escape(record.name)}</h2>{chip(record.status)}<small>{markup.escape(facts)}</small></div>'
    help_text = STATUS_HELP.get(record.status, "")
    if place:
        help_text = f"Number {place[0]} of {place[1]} that wait. " + ("It starts next." if place[0] == 1 else help_text)
    kind = "warn" if record.status in (RunStatus.LOST, RunStatus.UNREADABLE) else "info"
    body = _failure(record.result) + _damage(record) + (markup.notice(help_text, kind) if help_text else "")
    if record.status.is_active:
        body += _progress(record, records)
    return title + _tags(record) + body + warnings_html(record, records) + _figures(record, records)


def _damage(record: RunRecord) -> str:
    """Which files of the run hold what no run writes."""
    texts = [f"{name} holds values that no run writes; they are left out here." for name in record.damaged]
    return markup.notice("\n".join(texts), "warn") if texts else ""


def _tags(record: RunRecord) -> str:
    tags = "".join(f"<i>{markup.escape(tag)}</i>" for tag in record.notes.tags)
    text = f"<p>{markup.escape(record.notes.text)}</p>" if record.notes.text else ""
    return f'<div class="run-notes">{tags}{text}</div>' if tags or text else ""


def warnings_html(record: RunRecord, records: Sequence[StepRecord]) -> str:
    """What the curve warns of, each with its advice. A run that failed has said so itself."""
    if record.status in (RunStatus.FAILED, RunStatus.QUEUED):
        return ""
    found = find_warnings(records, record.progress.total_steps, record.spec.learning_rate)
    return "".join(markup.notice(f"{warning.text}\n{warning.advice}", "warn", warning.title) for warning in found)


def _progress(record: RunRecord, records: Sequence[StepRecord]) -> str:
    progress = record.progress
    step, total = progress.step, progress.total_steps
    phase = progress.sentence or "starting"
    stopping = record.status is RunStatus.STOPPING
    if stopping and phase == "training":
        phase = "finishing this step, then saving"
    left = 0.0 if stopping else time_left_s(records, step, total)
    text = (
        f"{phase[:1].upper()}{phase[1:]}"
        + (f" · step {step:,} of {total:,}" if total else "")
        + (f" · {show_duration(left)} left" if left else "")
    )
    bar = markup.progress_bar(step / total if total else 0.0, text, "" if total else "waiting")
    return f'<div class="run-progress">{bar}<p>{markup.escape(text)}</p></div>'


def time_left_s(records: Sequence[StepRecord], step: int, total: int) -> float:
    """Seconds to the end at the pace since the first logged step, evaluations included; 0 where it cannot be told yet."""
    timed = [record for record in records if record.seconds > 0]
    if len(timed) < 2 or not total or step <= timed[0].step:
        return 0.0
    pace = (timed[-1].seconds - timed[0].seconds) / max(1, timed[-1].step - timed[0].step)
    return pace * (total - step)


def _failure(result: RunResult | None) -> str:
    if result is None or result.error is None:
        return ""
    message, hint = str(result.error.get("message", "")), str(result.error.get("hint", ""))
    return markup.notice(f"{message}\n{hint}".strip(), "bad", "This run failed.")


def _figures(record: RunRecord, records: Sequence[StepRecord]) -> str:
    result, plan = record.result, record.plan or {}
    evals = _held_out(result, records)
    speeds = [item.tokens_per_s for item in records if item.tokens_per_s]
    memory = max((item.memory_bytes or 0 for item in records), default=0)
    trainable = result.trainable_parameters if result and result.trainable_parameters else int(plan.get("trainable_parameters", 0))
    total = result.total_parameters if result and result.total_parameters else int(plan.get("total_parameters", 0))
    cells = []
    if evals:
        change = f"{100 * (evals[-1] / evals[0] - 1):+.1f} % from {evals[0]:.3f}" if len(evals) > 1 and evals[0] else "before training"
        cells.append(markup.stat("held-out loss", f"{evals[-1]:.3f}", change, "good" if evals[-1] < evals[0] else ""))
    if trainable:
        cells.append(markup.stat("trained", show_count(trainable), f"{show_share(trainable, total)} of {show_count(total)}"))
    if speeds:
        # The last step of a run that is over may have waited for the machine, or be half a batch.
        speed, note = (median(speeds), "median tokens per second") if record.status.is_over else (speeds[-1], "tokens per second")
        cells.append(markup.stat("speed", f"{speed:,.0f}", note))
    peak = max(memory, result.peak_memory_bytes if result else 0)
    if peak:
        planned = plan.get("memory_bytes")
        # The peak comes with the first training steps: until the run has ended, a share of the plan would say nothing.
        share = f" ({planned_memory_note(planned, peak)})" if record.status.is_over else ""
        note = f"{show_bytes(planned)} planned{share}" if planned else ""
        cells.append(markup.stat("peak memory", show_bytes(peak), note))
    if record.seconds:
        cells.append(markup.stat("time", show_duration(record.seconds), f"{records[-1].tokens:,} tokens" if records else ""))
    return markup.stats(cells) if cells else ""


def _held_out(result: RunResult | None, records: Sequence[StepRecord]) -> list[float]:
    """Held-out losses from first to last; of a run that has ended those of its result, which the list shows too."""
    if result and result.eval_loss_before is not None and result.eval_loss_after is not None:
        return [result.eval_loss_before, result.eval_loss_after]
    return [item.eval_loss for item in records if item.eval_loss is not None]


def samples_html(paths: RunPaths) -> str:
    """Each sample prompt with its answers at every evaluation, the latest open."""
    lines, _ = read_lines(paths.samples)
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_prompt.setdefault(str(line.get("prompt", "")), []).append(line)
    if not by_prompt:
        return ""
    blocks = "".join(_sample(prompt, answers) for prompt, answers in by_prompt.items())
    return f'{markup.heading("", "The same prompts, as it learns")}<div class="samples">{blocks}</div>'


def _sample(prompt: str, answers: Sequence[dict[str, Any]]) -> str:
    shown = "".join(
        f"<details{' open' if index == len(answers) - 1 else ''}><summary>step {whole(answer.get('step')):,}</summary>"
        f"<pre>{markup.escape(str(answer.get('answer', '')))}</pre></details>"
        for index, answer in enumerate(answers)
    )
    return f'<article><p class="prompt">{markup.escape(prompt)}</p>{shown}</article>'


def details_html(record: RunRecord) -> str:
    """What was changed from the defaults, then where it ran."""
    changed = changed_settings(record.spec)
    settings = markup.table(["setting", "value"], changed) if changed else markup.empty("Every setting is the default.")
    surroundings = [(key, _flat(value)) for key, value in (record.environment or {}).items()]
    where = markup.table(["surroundings", ""], surroundings) if surroundings else ""
    return f'<p class="path">Folder: <code>{markup.escape(str(record.paths.folder))}</code></p>{settings}{where}'


def changed_settings(spec: RunSpec) -> list[tuple[str, str]]:
    """Settings that differ from the defaults of the same method, as (name, value)."""
    default = RunSpec.parse({"method": {"family": spec.method.family}}).to_json()
    found = []
    for part, values in spec.to_json().items():
        if not isinstance(values, dict):
            continue
        found += [(f"{part}.{name}", _flat(value)) for name, value in values.items() if name == "family" or value != default[part][name]]
    return found


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _last_part(text: str) -> str:
    return text.rstrip("/").rsplit("/", 1)[-1]
