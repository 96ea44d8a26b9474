"""What each family adds to one model, counted, beside what the lecture's table says of it. Torch-free; from config alone.

Counts come from each method's own `describe`, for the settings `other_family` gives it: the same that the plan's alternatives show.
The lecture's words and figures stand as it gives them; each figure is counted again here by the same code, so that a reader sees
which hold. The one claim about quality is answered by a measurement of the starter model; docs/measurements.md has it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from studio.core.shape import ModelShape
from studio.core.spec import AdapterSpec, LoraSpec, PrefixSpec, RunSpec
from studio.core.units import show_bytes
from studio.methods import MethodCard, all_methods, get_method
from studio.methods.bottleneck import adapter_parameters
from studio.models.hardware import Hardware
from studio.models.memory import base_dtype, weight_bytes
from studio.models.plan import other_family
from studio.models.shape import shape_from_config, shipped_configs

NF4_BITS = 4.127
"""Stored bits per weight with double quantization."""
STARTER_NF4_RISE = 0.144
"""Held-out loss of the starter in NF4 over that in 16 bits, less 1, before training: tests/benchmarks/nf4_loss.py, 5,061 answer tokens."""

STARTER_QLORA_GAP = 0.089
"""Held-out loss of QLoRA over LoRA's after the same 24 steps, less 1, one seed: tests/benchmarks/evidence.py."""


@dataclass(frozen=True)
class LectureColumn:
    """The lecture's table for one family. That the base stays frozen it says of all."""

    added: str
    core: str
    good_for: str
    training_size: str
    architecture_change: str


@dataclass(frozen=True)
class Check:
    """A figure of the lecture's, what is found here, and whether the two agree. `how`: 'counted here', or where it was measured."""

    claim: str
    found: str
    agrees: bool
    how: str = "Counted here"


@dataclass(frozen=True)
class FamilyComparison:
    """One family on the chosen model: counted, and claimed. `base_bytes` are the frozen weights as this family holds them."""

    card: MethodCard
    quantization: str
    base_bytes: int
    lecture: LectureColumn
    checks: tuple[Check, ...]
    current: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_LORA = LectureColumn("a weight delta", "ΔW = B A", "low-memory fine-tuning", "very low", "small, in the weights")
_ADAPTER = LectureColumn(
    added="a small MLP between layers, residual",
    core="h + W₂ relu(W₁ h)",
    good_for="continual, multi-task learning",
    training_size="low",
    architecture_change="an extra MLP block in the layers",
)
_PREFIX = LectureColumn(
    added="learned keys and values in attention",
    core="K' = [P_k; K], V' = [P_v; V]",
    good_for="prompt-style task control",
    training_size="very low",
    architecture_change="a prefix in attention",
)
LECTURE = {"lora": _LORA, "qlora": _LORA, "adapter": _ADAPTER, "prefix": _PREFIX}
"""It has one column for LoRA and QLoRA."""


def compare_families(spec: RunSpec, shape: ModelShape, hardware: Hardware) -> tuple[FamilyComparison, ...]:
    """Every family at the run's settings, or at its defaults where the run is of another family."""
    element = 4 if base_dtype(spec, hardware) == "float32" else 2
    found = []
    for method in all_methods():
        other = other_family(spec, method.family)
        found.append(
            FamilyComparison(
                card=method.describe(other.method, shape),
                quantization=other.quantization,
                base_bytes=weight_bytes(shape, other.quantization, element, other.model.double_quantization),
                lecture=LECTURE[method.family],
                checks=CHECKS[method.family](shape),
                current=method.family == spec.method.family,
            )
        )
    return tuple(found)


def _check_lora(_: ModelShape) -> tuple[Check, ...]:
    base = shape_from_config(shipped_configs()["Llama-3.2-1B"])
    counted = get_method("lora").added_parameters(LoraSpec(rank=8, targets=["q_proj", "v_proj"]), base)
    total = base.parameters + counted
    claim = "851,968 of 1,236,666,368 trained, 0.0689 % (Llama-3.2-1B, rank 8 on q and v)"
    return (Check(claim, f"{counted:,} of {total:,}, {100 * counted / total:.4f} %", (counted, total) == (851_968, 1_236_666_368)),)


def _check_qlora(shape: ModelShape) -> tuple[Check, ...]:
    """Against 16 bits, whatever this machine holds the base in."""
    plain, held = weight_bytes(shape, "none", 2), weight_bytes(shape, "nf4", 2)
    found = (
        f"{plain / held:.2f} times for this model, {show_bytes(plain)} to {show_bytes(held)}: its linear layers shrink "
        f"{16 / NF4_BITS:.2f} times ({NF4_BITS} bits), embeddings and norms stay in 16 bits"
    )
    rise = (
        f"before training, held-out loss is {100 * STARTER_NF4_RISE:.0f} % above that of 16 bits; after the same short training, QLoRA's "
        f"is {100 * STARTER_QLORA_GAP:.0f} % above LoRA's"
    )
    return (
        Check("4 times less memory than 16 bits", found, round(plain / held) == 4),
        Check("no loss of quality with NF4", rise, False, "Measured on the starter (135M)"),
    )


def _check_adapter(_: ModelShape) -> tuple[Check, ...]:
    counted = adapter_parameters(2048, AdapterSpec().bottleneck)
    return (Check("264,256 per adapter (hidden size 2048, bottleneck 64)", f"{counted:,}", counted == 264_256),)


def _check_prefix(_: ModelShape) -> tuple[Check, ...]:
    base = shape_from_config(shipped_configs()["Llama-3.2-1B"])
    counted = get_method("prefix").added_parameters(PrefixSpec(virtual_tokens=16), base)
    return (Check("262,144 for 16 virtual tokens (Llama-3.2-1B)", f"{counted:,}", counted == 262_144),)


CHECKS: dict[str, Callable[[ModelShape], tuple[Check, ...]]] = {
    "lora": _check_lora, "qlora": _check_qlora, "adapter": _check_adapter, "prefix": _check_prefix,
}  # fmt: skip
