"""The model card of a run: what was trained on what, how well it did, how to load it. Every figure is read from the run's files.

Says nothing a run does not know: no benchmark, no claim of fitness. The YAML head follows the hub's card format.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from studio.core.catalog import DATASETS, find_model
from studio.core.units import show_bytes, show_count, show_duration, show_share
from studio.export.source import ExportSource
from studio.methods import get_method
from studio.methods.saving import public_base

Kind = Literal["adapter", "merged"]

LOADING = {
    "adapter": """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained({base})""",
    "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")""",
}


def model_card(source: ExportSource, kind: Kind = "adapter") -> str:
    """README.md as text, for the adapter or for the merged model."""
    spec = source.spec
    title = get_method(spec.method.family).title
    base = public_base(spec.model)
    sections = [
        _front_matter(source, kind, base),
        f"# {_line(source.name)}",
        f"{title} of `{base}`, trained on {_data_name(spec.data.source)} with PEFT Studio."
        + ("\nThe adapter is merged into the base's weights." if kind == "merged" else ""),
    ]
    if source.notes:
        sections.append(source.notes)
    sections += [
        "## Results\n\n" + _results(source),
        "## How to load it\n\n```python\n"
        + LOADING[kind].format(base=json.dumps(base))
        + "\n```"
        + _loading_note(spec.method.family, kind),
        "## Training\n\n" + _training(source),
        "## Limits\n\n" + _limits(source),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(source: ExportSource, kind: Kind, base: str) -> str:
    head: dict[str, Any] = {
        "base_model": base,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
    }
    family = source.spec.method.family
    head["tags"] = ["peft-studio", "lora" if family == "qlora" else family, *(["peft"] if kind == "adapter" else [])]
    if "/" in source.spec.data.source and not source.spec.data.source.startswith(("/", ".", "~")):
        head["datasets"] = [source.spec.data.source]
    # JSON is YAML: strings are quoted whatever they hold.
    return "---\n" + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()) + "\n---"


def _results(source: ExportSource) -> str:
    result = source.result
    if result is None:
        return "The run has not ended."
    rows = []
    if result.eval_loss_before is not None:
        rows.append(("Held-out loss, nats per token", _losses(result.eval_loss_before, result.eval_loss_after)))
    share = show_share(result.trainable_parameters, result.total_parameters)
    rows += [
        ("Trained parameters", f"{result.trainable_parameters:,} of {show_count(result.total_parameters)} ({share})"),
        ("Steps, samples, tokens", f"{result.steps:,}, {result.samples:,}, {result.tokens:,}"),
        ("Time, peak memory", f"{show_duration(result.seconds)}, {show_bytes(result.peak_memory_bytes)}"),
        ("Adapter on disk", show_bytes(result.adapter_bytes)),
    ]
    return _table(rows)


def _losses(before: float, after: float | None) -> str:
    if after is None:  # stopped before the first evaluation after a step
        return f"{before:.4f} before, not measured since training began"
    change = f" ({100 * (after / before - 1):+.1f} %)" if before else ""
    return f"{before:.4f} before, {after:.4f} after{change}"


def _training(source: ExportSource) -> str:
    spec, environment = source.spec, source.environment
    versions = environment.get("versions") if isinstance(environment.get("versions"), dict) else {}
    rows = [
        ("Method", _settings(spec.method.model_dump(mode="json", exclude={"family"}))),
        ("Base held as", {"none": "unquantized"}.get(spec.quantization, spec.quantization)),
        ("Learning rate, schedule", f"{spec.learning_rate:g}, {spec.training.schedule}, warmup {spec.training.warmup:g}"),
        ("Batch", f"{spec.training.batch_size} × {spec.training.accumulation}, up to {spec.training.max_length} tokens"),
        ("Loss on", "the answers only" if spec.training.loss_on == "answer" else "every token"),
        ("Seed", str(spec.training.seed)),
        ("Data fingerprint", f"`{environment.get('data_fingerprint', 'unknown')}`"),
        ("Device, precision", f"{environment.get('device', 'unknown')}, {environment.get('compute_dtype', 'unknown')}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"),
    ]
    return _table(rows)


def _limits(source: ExportSource) -> str:
    entry = find_model(source.spec.model.id)
    lines = ["- The held-out loss is measured on rows of the same dataset; it says nothing about other tasks, safety or facts."]
    if entry:
        lines.append(
            f"- The base's licence is {entry.licence}; it applies to what is derived from it." + (f" {entry.note}" if entry.note else "")
        )
    else:
        lines.append("- The base's licence applies to what is derived from it: see its own card.")
    dataset = next((data for data in DATASETS if data.id == source.spec.data.source), None)
    if dataset:
        lines.append(f"- The dataset's licence is {dataset.licence}. {dataset.note}")
    return "\n".join(lines)


def _loading_note(family: str, kind: Kind) -> str:
    if family == "adapter" and kind == "adapter":
        return "\n\nPEFT knows this bottleneck type only after `import studio.methods.bottleneck_tuner`, from PEFT Studio."
    return ""


def _data_name(source: str) -> str:
    """A path is private: only its last part is published."""
    known = next((data.title for data in DATASETS if data.id == source), "")
    return known or (source.rstrip("/").rsplit("/", 1)[-1] if source.startswith(("/", ".", "~")) else f"`{source}`")


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in ("", [], {}, False))


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows)])
