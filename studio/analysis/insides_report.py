"""The insides of a run's or a folder's adapter for one prompt, as JSON: on the base it belongs on, asked as the playground asks.

Loads a model, so the page gives it a process of its own that is ended afterwards. Nothing is fetched: the base must be on this disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.analysis.cli import find_adapter
from studio.analysis.insides import adapter_insides, prefix_insides
from studio.analysis.jsonable import to_jsonable
from studio.analysis.locate import model_folder, run_or_folder
from studio.core.errors import AnalysisError
from studio.core.files import read_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec

MAX_TOKENS = 1024
"""Eager attention holds tokens x tokens weights for every head."""


def insides_report(
    name: str, prompt: str, home: StudioHome, base: str = "", report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """AdapterInsides or PrefixInsides as a dict, with "family", "base" and "adapter" (the adapter's own line on itself).

    `name` is a run's id or a folder, `base` the model to read it on where its own word is not to be taken; `report` is told what is
    being done. Errors: AnalysisError (another family, an empty or too long prompt), MethodError, ModelError and their kinds.
    """
    from studio.methods.adapters import describe_adapter, load_adapter
    from studio.models.chat import encode_prompt
    from studio.models.load import load_base

    if not prompt.strip():
        raise AnalysisError("The prompt is empty.", "Type what the model should read.")
    folder = run_or_folder(name, home)
    adapter = find_adapter(folder)
    info = describe_adapter(adapter)
    if info.family not in ("adapter", "prefix"):
        raise AnalysisError("A LoRA changes weights: it has no units and no prefix to look at.", "Its singular values are its insides.")
    spec = _spec(folder, base or info.base, bool(base))
    source = model_folder(spec.model.id, home)
    report("Loading the model")
    attention = "eager" if info.family == "prefix" else spec.model.attention
    changes = {"id": str(source), "quantization": spec.quantization, "attention": attention}
    loaded = load_base(RunSpec.parse({"model": {**spec.model.model_dump(), **changes}}), home)
    model = load_adapter(loaded.model, adapter, "default")
    ids = encode_prompt(loaded.tokenizer, [{"role": "user", "content": prompt}])
    if len(ids) > MAX_TOKENS:
        raise AnalysisError(f"The prompt has {len(ids):,} tokens, and at most {MAX_TOKENS:,} are looked at.", "Shorten it.")
    report("Reading the prompt")
    insides = adapter_insides(model, ids) if info.family == "adapter" else prefix_insides(model, ids)
    return {"family": info.family, "base": spec.model.id, "adapter": info.summary, **to_jsonable(insides)}


def _spec(folder: Path, base: str, insist: bool) -> RunSpec:
    """The run's own settings; only the base's name for a folder, or where another base is insisted on."""
    data = None if insist else read_json(RunPaths(folder).spec)
    if data:
        return RunSpec.parse(data)
    if not base:
        raise AnalysisError("This adapter does not say which base it was trained on.", "Name the base model too.")
    return RunSpec.parse({"model": {"id": base}})
