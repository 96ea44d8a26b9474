"""RunSpec: everything that decides a run, validated, serialised, all problems at once.

Knows nothing of the model's shape or of this machine: `studio.models.plan` checks those. Field names are the vocabulary of the
form, of spec.json, of `--set key=value` and of assets/help; each field's help is assets/help/<part>.<field>.md.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studio.core.errors import SpecError

Family = Literal["lora", "qlora", "adapter", "prefix"]
Quantization = Literal["auto", "none", "int8", "nf4", "fp4"]
COLUMN_ROLES = ("prompt", "completion", "instruction", "input", "output", "messages", "text", "system")

# Where learning_rate is left out. LoRA: facts measured by many (about ten times full fine-tuning); prefix: PEFT's method comparison,
# where 1e-3 learns next to nothing and 5e-3 does.
DEFAULT_LEARNING_RATE: dict[str, float] = {"lora": 1e-3, "qlora": 1e-3, "adapter": 1e-3, "prefix": 5e-3}


class Part(BaseModel):
    """A part of the spec: unknown names are refused, values are checked on the way in, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ModelSpec(Part):
    """The base model and how it is held in memory."""

    id: str = Field("starter", min_length=1, max_length=500)
    """A catalog name, a hub id, or a path to a folder or a GGUF file."""
    revision: str = ""
    quantization: Quantization = "auto"
    """auto: nf4 for QLoRA, none for the others."""
    double_quantization: bool = True
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the device computes in it, else float32."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    trust_remote_code: bool = False


class DataSpec(Part):
    """The dataset, how its columns are read, and what is held out."""

    source: str = Field("starter", min_length=1, max_length=500)
    """A catalog name, a hub id, or a path to a file or folder."""
    config: str = ""
    split: str = "train"
    format: Literal["auto", "prompt_completion", "alpaca", "messages", "text"] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    """One of COLUMN_ROLES -> column name, where the detected mapping is corrected."""
    system_prompt: str = ""
    held_out: float = Field(0.1, gt=0, lt=0.9)
    """Share of rows held out for evaluation, where the dataset has no split of its own."""
    max_rows: int = Field(0, ge=0)
    """Train on at most so many rows; 0 takes all."""
    max_held_out_rows: int = Field(150, ge=1)
    broken_rows: Literal["refuse", "leave_out"] = "refuse"
    """What to do with a dataset some of whose rows cannot be read; where most cannot, it is refused in any case."""


class LoraSpec(Part):
    """LoRA (arXiv 2106.09685): W + (alpha / rank) B A."""

    family: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, le=4096)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear", "attention", "mlp"] | list[str] = "all-linear"
    layers: list[int] = Field(default_factory=list)
    """Only these layers, counted from 0; empty takes all."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv 2312.03732)."""
    dora: bool = False
    """Magnitude and direction apart (arXiv 2402.09353)."""
    init: Literal["default", "gaussian", "pissa", "olora", "eva"] = "default"
    lora_plus_ratio: float = Field(1.0, ge=1)
    """Learning rate of B over that of A (LoRA+, arXiv 2402.12354); 1 trains both alike."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class QLoraSpec(LoraSpec):
    """QLoRA (arXiv 2305.14314): LoRA on a frozen base held in 4 bits."""

    family: Literal["qlora"] = "qlora"  # type: ignore[assignment]


class AdapterSpec(Part):
    """Bottleneck adapters (Houlsby, arXiv 1902.00751; Pfeiffer, arXiv 2005.00247): h + up(act(down(h)))."""

    family: Literal["adapter"] = "adapter"
    bottleneck: int = Field(64, ge=1, le=65536)
    reduction_factor: int = Field(0, ge=0)
    """Where above 0 the bottleneck is the hidden size divided by it."""
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class PrefixSpec(Part):
    """Prefix-Tuning (arXiv 2101.00190): learned keys and values before the first token of every layer."""

    family: Literal["prefix"] = "prefix"
    virtual_tokens: int = Field(16, ge=1, le=2048)
    projection: bool = False
    projection_hidden: int = Field(0, ge=0)
    """Width of the projection's hidden layer; 0 takes the model's hidden size."""
    init: Literal["text", "random"] = "text"
    init_text: str = "Write a Python function that does what its description says."


FAMILIES: dict[str, type[Part]] = {"lora": LoraSpec, "qlora": QLoraSpec, "adapter": AdapterSpec, "prefix": PrefixSpec}
MethodSpec = Annotated[Union[LoraSpec, QLoraSpec, AdapterSpec, PrefixSpec], Field(discriminator="family")]  # noqa: UP007 - 3.10


class TrainingSpec(Part):
    """How long, how fast, how much at once."""

    epochs: float = Field(1.0, gt=0, le=1000)
    max_steps: int = Field(0, ge=0, le=10_000_000)
    """Where above 0 it decides and epochs does not."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """None takes the family's default."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are clipped to this norm; 0 clips nothing."""
    batch_size: int = Field(8, ge=1, le=4096)
    accumulation: int = Field(1, ge=1, le=4096)
    """Batches per optimizer step."""
    max_length: int = Field(512, ge=8)
    """Longest example in tokens."""
    too_long: Literal["drop", "cut"] = "drop"
    loss_on: Literal["answer", "all"] = "answer"
    padding: Literal["grouped", "batch", "fixed"] = "grouped"
    """grouped: examples of like length share a batch; batch: to the longest of the batch; fixed: to max_length."""
    labelled_head: bool = True
    """Run the LM head at trained-on positions only: same loss, less time and memory."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """What the forward pass computes in; adapter weights stay fp32."""
    gradient_checkpointing: bool = False
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations; 0 takes about five in a run."""
    log_every: int = Field(1, ge=1)
    save_every: int = Field(0, ge=0)
    """Steps between checkpoints; 0 saves at each evaluation."""
    keep_checkpoints: int = Field(2, ge=1)
    keep_best: bool = False
    """End with the adapter of the lowest eval loss instead of the last."""
    patience: int = Field(0, ge=0)
    """Stop after so many evaluations without improvement; 0 never."""
    seed: int = Field(42, ge=0, lt=2**32)
    sample_prompts: list[str] = Field(default_factory=list, max_length=5)
    report_to: Literal["none", "tensorboard", "trackio"] = "none"


class RunSpec(Part):
    """One run: base model, data, method, training."""

    name: str = Field("", max_length=100)
    model: ModelSpec = Field(default_factory=ModelSpec)
    data: DataSpec = Field(default_factory=DataSpec)
    method: MethodSpec = Field(default_factory=LoraSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)

    @property
    def quantization(self) -> Literal["none", "int8", "nf4", "fp4"]:
        """How the base is held, `auto` resolved by family."""
        if self.model.quantization == "auto":
            return "nf4" if self.method.family == "qlora" else "none"
        return self.model.quantization

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate or DEFAULT_LEARNING_RATE[self.method.family]

    @classmethod
    def parse(cls, data: dict[str, Any]) -> RunSpec:
        """A valid spec, or SpecError with every problem: types, ranges and contradictions together."""
        try:
            spec = cls.model_validate(data)
        except ValidationError as error:
            raise SpecError([_sentence(item) for item in error.errors()]) from error
        found = spec.problems()
        if found:
            raise SpecError(found)
        return spec

    def problems(self) -> list[str]:
        """Contradictions within valid fields, each with advice. Shape and machine are checked by studio.models.plan."""
        found = []
        if unknown := [role for role in self.data.columns if role not in COLUMN_ROLES]:
            found.append(f"data.columns names no such role: {', '.join(unknown)}. The roles are {', '.join(COLUMN_ROLES)}.")
        if self.method.family == "qlora" and self.quantization not in ("nf4", "fp4"):
            found.append("QLoRA needs a 4-bit base: set model.quantization to nf4 or fp4, or choose LoRA.")
        if self.method.family == "prefix" and self.training.gradient_checkpointing:
            found.append(
                "Prefix-Tuning cannot run with gradient checkpointing: recomputing a layer loses the prefix's keys and values. "
                "Turn training.gradient_checkpointing off."
            )
        if isinstance(self.method, LoraSpec):
            found += self._lora_problems(self.method)
        if self.training.precision == "fp16" and self.model.dtype == "float16" and self.quantization == "none":
            found.append("fp16 training over an fp16 base overflows easily: set model.dtype to auto, or training.precision to bf16.")
        return found

    def _lora_problems(self, method: LoraSpec) -> list[str]:
        found = []
        if isinstance(method.targets, list) and not [name for name in method.targets if name.strip()]:
            found.append("method.targets names no module: pick at least one, or all-linear.")
        if any(layer < 0 for layer in method.layers):
            found.append("method.layers counts from 0: a negative layer does not exist.")
        if method.init in ("pissa", "olora") and self.quantization != "none":
            found.append(f"method.init {method.init} rewrites the base's weights, which a quantized base cannot take: use default or eva.")
        if method.dora and self.quantization == "int8":
            found.append("DoRA needs the norm of the base's weights, which an int8 base does not give: use nf4 or none.")
        return found

    def named(self) -> RunSpec:
        """This spec; where nobody named it, named after its dataset and method: 'alpaca lora'."""
        dataset = re.split(r"[/\\]", self.data.source.rstrip("/\\"))[-1].partition(".")[0]
        return self if self.name.strip() else self.model_copy(update={"name": f"{dataset[:80]} {self.method.family}".strip()})

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def with_overrides(data: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """`data` with `--set part.field=value` applied; a value is read as JSON where it is JSON, else as text. Raises SpecError."""
    result = json.loads(json.dumps(data))
    problems = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            problems.append(f"{pair!r} is not key=value, for example training.max_steps=40.")
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        *parents, last = key.strip().split(".")
        node = result
        for name in parents:
            node = node.setdefault(name, {}) if isinstance(node, dict) else None
        if key.strip() == "method.family":
            result["method"] = _change_family(result.get("method", {}), str(value))
        elif isinstance(node, dict):
            node[last] = value
        else:
            problems.append(f"{key.strip()} is not a setting of the studio: {'.'.join(parents)} has no parts.")
    if problems:
        raise SpecError(problems)
    return result


def _change_family(method: dict[str, Any], family: str) -> dict[str, Any]:
    """LoRA and QLoRA share their fields; any other change of family starts from that family's defaults."""
    alike = {"lora", "qlora"}
    kept = method if {family, method.get("family")} <= alike else {}
    return {**kept, "family": family}


def _sentence(item: Any) -> str:
    """One pydantic error as one sentence that names the field, the value and the rule."""
    # pydantic names the family after "method"; for a person it is no part of the setting's name.
    part, *rest = [*item["loc"], ""]
    where = ".".join(str(name) for name in (part, *(rest[1:] if part == "method" and rest[0] in FAMILIES else rest)) if name != "")
    value = item.get("input")
    shown = "" if isinstance(value, dict) or item["type"] == "missing" else f" (got {value!r:.80})"
    if item["type"] == "extra_forbidden":
        return f"{where} is not a setting of the studio{_meant(where)}."
    if item["type"].startswith("union_tag"):
        return "method.family must be one of lora, qlora, adapter, prefix."
    return f"{where or 'the spec'}: {item['msg'][:1].lower()}{item['msg'][1:]}{shown}."


def _meant(where: str) -> str:
    """What a name that is no setting may have meant, as the end of a sentence; "" where nothing is like it."""
    if where in FAMILIES:
        return ": a method's settings begin with method, for example method.family"
    parts = {"model": [ModelSpec], "data": [DataSpec], "method": list(FAMILIES.values()), "training": [TrainingSpec]}
    known = {f"{part}.{name}" for part, classes in parts.items() for kind in classes for name in kind.model_fields} | {"name", *parts}
    if where in known:
        return " for this method"
    near = difflib.get_close_matches(where, sorted(known), n=1)
    return f"; the nearest is {near[0]}" if near else ""
