"""The plan: what a run trains, what it needs, whether it fits here and how long it takes, before anything is loaded or started.

Torch-free; from the spec, the model's shape and the hardware alone. Parameter counts are exact, memory is modelled (memory.py), time is
estimated (duration.py). `check` lists what stands in the way: everything in which spec and shape do not fit each other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from studio.core.shape import ModelShape
from studio.core.spec import AdapterSpec, LoraSpec, PrefixSpec, QLoraSpec, RunSpec
from studio.core.units import show_bytes
from studio.methods import all_methods, get_method
from studio.models.duration import Duration, plan_duration
from studio.models.hardware import Hardware
from studio.models.memory import MemoryPart, base_dtype, compute_bytes, plan_memory
from studio.models.sizes import DataSize, assume_size

TIGHT_SHARE = 0.85
"""Above this share of the device's memory a run may fail on a longer batch, or slow the machine down."""
FULL_SHARE = 0.97


@dataclass(frozen=True)
class Verdict:
    """Whether the planned peak fits this device, in one sentence with its numbers."""

    level: Literal["fits", "tight", "too large"]
    sentence: str


@dataclass(frozen=True)
class Alternative:
    """Another family at the same settings: what it trains and takes. `current` marks the family planned."""

    family: str
    title: str
    quantization: str
    trainable_parameters: int
    memory_bytes: int
    seconds: float
    level: Literal["fits", "tight", "too large"]
    current: bool


@dataclass(frozen=True)
class Plan:
    """All that is known of a run before it starts. Bytes are decimal-free integers, share is trainable over total, 0..1."""

    model_id: str
    family: str
    quantization: str
    dtype: str
    trainable_parameters: int
    base_parameters: int
    memory: tuple[MemoryPart, ...]
    verdict: Verdict
    duration: Duration
    data: DataSize
    hardware: Hardware
    alternatives: tuple[Alternative, ...]
    advice: tuple[str, ...]
    alternatives_note: str = ""
    """What would surprise in the alternatives, explained; '' where nothing does."""

    @property
    def total_parameters(self) -> int:
        """Base and adapter together, as PEFT counts them."""
        return self.base_parameters + self.trainable_parameters

    @property
    def share(self) -> float:
        return self.trainable_parameters / self.total_parameters

    @property
    def memory_bytes(self) -> int:
        """The planned peak: the sum of all parts."""
        return sum(part.bytes for part in self.memory)

    @property
    def adapter_file_bytes(self) -> int:
        """The adapter on disk, in fp32."""
        return 4 * self.trainable_parameters

    def to_json(self) -> dict[str, Any]:
        derived = ("total_parameters", "share", "memory_bytes", "adapter_file_bytes")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def make_plan(spec: RunSpec, shape: ModelShape, hardware: Hardware, rows: DataSize | None = None) -> Plan:
    """The plan for one run. `rows` is the size of its data once they were read; without it a stated assumption."""
    size = rows or assume_size(spec)
    memory = plan_memory(spec, shape, hardware, size)
    method = get_method(spec.method.family)
    total = sum(part.bytes for part in memory)
    return Plan(
        model_id=spec.model.id,
        family=spec.method.family,
        quantization=spec.quantization,
        dtype=base_dtype(spec, hardware),
        trainable_parameters=method.added_parameters(spec.method, shape),
        base_parameters=shape.parameters,
        memory=memory,
        verdict=judge(total, hardware),
        duration=plan_duration(spec, shape, hardware, size, compute_bytes(spec, hardware)),
        data=size,
        hardware=hardware,
        alternatives=_alternatives(spec, shape, hardware, size),
        advice=tuple(method.advice(spec)),
        alternatives_note=explain_larger_qlora(spec, shape, hardware, size),
    )


def judge(total_bytes: int, hardware: Hardware) -> Verdict:
    """The verdict on a planned peak against the device's memory, and what is free of it now."""
    needed, there, free = (show_bytes(value) for value in (total_bytes, hardware.memory_bytes, hardware.free_bytes))
    if total_bytes > FULL_SHARE * hardware.memory_bytes:
        return Verdict(
            "too large", f"It needs about {needed}, and this machine has {there}: choose QLoRA, smaller batches or a smaller model."
        )
    if total_bytes > TIGHT_SHARE * hardware.memory_bytes:
        return Verdict("tight", f"It needs about {needed} of this machine's {there}: it may fail on a long batch.")
    if total_bytes > hardware.free_bytes:
        return Verdict("tight", f"It needs about {needed}, and {free} of {there} are free now: close something first.")
    return Verdict("fits", f"It needs about {needed} of this machine's {there}.")


def check(spec: RunSpec, shape: ModelShape) -> list[str]:
    """Everything in which the spec does not fit this model, each a sentence with its advice; empty where it can run."""
    return _context_problems(spec, shape) + _quantization_problems(spec, shape) + get_method(spec.method.family).problems(spec, shape)


def _context_problems(spec: RunSpec, shape: ModelShape) -> list[str]:
    prefix = spec.method.virtual_tokens if isinstance(spec.method, PrefixSpec) else 0
    if prefix >= shape.context or spec.training.max_length + prefix <= shape.context:
        return []
    taken = f" less {prefix} for the prefix" if prefix else ""
    return [
        f"training.max_length {spec.training.max_length} is beyond the model's context of {shape.context} tokens{taken}: "
        f"use at most {shape.context - prefix}."
    ]


def _quantization_problems(spec: RunSpec, shape: ModelShape) -> list[str]:
    """Two 4-bit weights share a byte, and on GPUs the kernels read whole blocks of 64 along the input."""
    if spec.quantization not in ("nf4", "fp4"):
        return []
    odd = sorted({linear.short_name for linear in shape.linears if linear.in_features % 64})
    if not odd:
        return []
    return [
        f"{', '.join(odd)} of this model {'has' if len(odd) == 1 else 'have'} an input width that is no multiple of 64, the block size of "
        f"{spec.quantization}: hold the base in int8, or choose another model."
    ]


def _alternatives(spec: RunSpec, shape: ModelShape, hardware: Hardware, size: DataSize) -> tuple[Alternative, ...]:
    found = []
    for method in all_methods():
        other = other_family(spec, method.family)
        total = sum(part.bytes for part in plan_memory(other, shape, hardware, size))
        duration = plan_duration(other, shape, hardware, size, compute_bytes(other, hardware))
        found.append(
            Alternative(
                family=method.family,
                title=method.title,
                quantization=other.quantization,
                trainable_parameters=method.added_parameters(other.method, shape),
                memory_bytes=total,
                seconds=duration.seconds,
                level=judge(total, hardware).level,
                current=method.family == spec.method.family,
            )
        )
    return tuple(found)


def explain_larger_qlora(spec: RunSpec, shape: ModelShape, hardware: Hardware, size: DataSize) -> str:
    """Why QLoRA takes more memory than LoRA here, with the figures; '' where it does not.

    On a CPU LoRA over an unquantized base shares its inputs among layers, over 4 bits it cannot (memory._lora_bytes).
    """
    plain, held = (
        {part.name: part.bytes for part in plan_memory(other_family(spec, family), shape, hardware, size)} for family in ("lora", "qlora")
    )
    kept = held["activations"] - plain["activations"]
    if sum(held.values()) <= sum(plain.values()) or plain["weights"] <= held["weights"] or kept <= 0:
        return ""
    return (
        f"QLoRA takes more than LoRA here: 4 bits shrink the weights from {show_bytes(plain['weights'])} to {show_bytes(held['weights'])} "
        f"(embeddings are not quantized), but over 4 bits layers that read the same input each keep a copy of it, {show_bytes(kept)} more. "
        "It pays off with a larger model or a smaller batch."
    )


def other_family(spec: RunSpec, family: str) -> RunSpec:
    """The same run with another family at its defaults; LoRA and QLoRA keep each other's settings. Prefix runs without checkpointing."""
    if family == spec.method.family:
        return spec
    kinds: dict[str, Any] = {"lora": LoraSpec, "qlora": QLoraSpec, "adapter": AdapterSpec, "prefix": PrefixSpec}
    kept = spec.method.model_dump(exclude={"family"}) if isinstance(spec.method, LoraSpec) and "lora" in family else {}
    four_bit = spec.quantization in ("nf4", "fp4")
    quantization = "auto" if family == "qlora" or (four_bit and spec.method.family == "qlora") else spec.model.quantization
    training = spec.training.model_copy(update={"gradient_checkpointing": False}) if family == "prefix" else spec.training
    return spec.model_copy(
        update={
            "method": kinds[family](**kept),
            "model": spec.model.model_copy(update={"quantization": quantization}),
            "training": training,
        }
    )
